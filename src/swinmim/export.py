"""Ways out: the encoder in the formats of other libraries."""

from __future__ import annotations

from pathlib import Path

from swinmim.checkpoint.encoder import load_stored, open_encoder, save_encoder
from swinmim.checkpoint.timm_config import timm_obstacle
from swinmim.errors import CheckpointError
from swinmim.models.swinv2 import SwinV2


def export_timm(source: SwinV2 | str | Path, destination: str | Path) -> Path:
    """Write a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads, with a linear head.

    It is an encoder folder as well. Raises CheckpointError, and writes nothing, where timm has no such model.
    """
    if isinstance(source, SwinV2):
        encoder, weights, history = source, None, None
    else:
        stored = open_encoder(source)
        encoder, weights, history = load_stored(stored), stored.read(), stored.manifest.history()
    obstacle = timm_obstacle(encoder)
    if obstacle is not None:
        raise CheckpointError(f"Cannot export to timm: {obstacle}. Load the encoder folder with swinmim.load_encoder.")
    return save_encoder(encoder, destination, history, weights)
