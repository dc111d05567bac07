"""timm's local-dir format, which is an encoder folder as well."""

from __future__ import annotations

from pathlib import Path

import torch

from swinmim.checkpoint.encoder import CLASSIFIER_NAMES, Stored, load_stored, open_encoder, save_encoder
from swinmim.checkpoint.timm_config import timm_obstacle
from swinmim.errors import CheckpointError
from swinmim.export.card import TIMM, write_card
from swinmim.export.folder import new_folder
from swinmim.export.parity import Parity, judge_modules, made_images
from swinmim.models.swinv2 import SwinV2

LIMIT = 1e-5


def export_timm(source: SwinV2 | str | Path, destination: str | Path) -> Path:
    """Write a folder that `timm.create_model("local-dir:FOLDER", pretrained=True)` loads, with a linear head.

    It is an encoder folder as well. Raises CheckpointError, and writes nothing, where timm has no such model or the
    destination exists.
    """
    with new_folder(destination) as draft:
        if isinstance(source, SwinV2):
            _check(source)
            write_card(save_encoder(source, draft), open_encoder(draft), TIMM, "encoder")
        else:
            write_timm(open_encoder(source), draft)
    return Path(destination)


def write_timm(stored: Stored, folder: Path) -> None:
    """Into an empty folder. Raises CheckpointError where timm has no such model."""
    encoder, weights = load_stored(stored), stored.read()
    _check(encoder)
    save_encoder(encoder, folder, stored.manifest.history(), weights)
    write_card(folder, stored, TIMM, "task model" if set(CLASSIFIER_NAMES) <= weights.keys() else "encoder")


def check_timm(stored: Stored, folder: Path) -> list[Parity]:
    """Of what timm makes of the folder: every tensor, the pooled features, and the logits where it has the head."""
    import timm

    encoder, weights = load_stored(stored, attention="reference").eval(), stored.read()
    twin = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    loaded = twin.state_dict()
    same = all(torch.equal(loaded[name], weights[name].float()) for name in loaded)
    if not same:
        raise CheckpointError("timm loads other weights than were written; please report it with timm's version.")
    images = made_images(2, encoder.in_chans, encoder.resolution)
    head = [weights[name].float() for name in CLASSIFIER_NAMES if name in weights]

    def ours(images_BCHW: torch.Tensor) -> list[torch.Tensor]:
        pooled_BC = encoder(images_BCHW)
        return [
            torch.nn.functional.linear(pooled_BC, *(part.to(pooled_BC.dtype) for part in head)) if head else pooled_BC
        ]

    what = "logits" if head else "pooled features"
    return [
        Parity(f"{len(loaded)} tensors that timm loads", 0.0, 0.0),
        judge_modules(what, LIMIT, (encoder, ours), (twin, lambda images_BCHW: [twin(images_BCHW)]), images),
    ]


def _check(encoder: SwinV2) -> None:
    obstacle = timm_obstacle(encoder)
    if obstacle is not None:
        raise CheckpointError(f"Cannot export to timm: {obstacle}. Load the encoder folder with swinmim.load_encoder.")
