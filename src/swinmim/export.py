"""Ways out: the encoder in the formats of other libraries."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from swinmim.checkpoint.encoder import find_encoder_folder, load_encoder, load_head, save_encoder
from swinmim.checkpoint.manifest import HISTORY, read_manifest
from swinmim.checkpoint.timm_config import timm_obstacle
from swinmim.errors import CheckpointError
from swinmim.models.swinv2 import SwinV2


def export_timm(source: SwinV2 | str | Path, destination: str | Path) -> Path:
    """Write a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads, with its head if it has one.

    It is an encoder folder as well. Raises CheckpointError, and writes nothing, where timm has no such model.
    """
    if isinstance(source, SwinV2):
        encoder, head, history = source, None, {}
    else:
        folder = find_encoder_folder(source)
        manifest = read_manifest(folder)
        encoder, head = load_encoder(folder), load_head(folder)
        history = {key: value for key, value in dataclasses.asdict(manifest).items() if key in HISTORY}
    obstacle = timm_obstacle(encoder)
    if obstacle is not None:
        raise CheckpointError(f"Cannot export to timm: {obstacle}. Load the encoder folder with swinmim.load_encoder.")
    return save_encoder(encoder, destination, history, head)
