"""The mask token and decoder of SimMIM: beside a converted encoder, or in the trainer state of a pretraining run."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from swinmim.checkpoint import zero
from swinmim.checkpoint.encoder import Stored, beside_encoder
from swinmim.checkpoint.io import STATE
from swinmim.checkpoint.task_model import under
from swinmim.errors import CheckpointError
from swinmim.models.swinv2 import SwinV2
from swinmim.outside import UNLOADABLE

NAMES = ("mask_token", "decoder.0.weight", "decoder.0.bias")


def read_simmim(stored: Stored, encoder: SwinV2) -> dict[str, Tensor]:
    """`NAMES` with their tensors, float32.

    stored: as `open_encoder` found it; inside a run its encoder folder stands beside the state of the same step.
    Raises CheckpointError: there are none, or they are of another encoder.
    """
    found = beside_encoder(stored.read())
    state = stored.place.resolve().parent / STATE
    if not found.keys() >= set(NAMES) and state.exists():
        found = _of_state(state)
    if not found.keys() >= set(NAMES):
        raise CheckpointError(
            f"{stored.place} has no mask token and decoder of SimMIM. Give the pretraining run, or one of its "
            "checkpoints/step_*: they are in its state.ckpt. An encoder folder alone can be exported with part=encoder."
        )
    pixels = encoder.stride**2 * encoder.in_chans
    shapes = (encoder.architecture.embed_dim,), (pixels, encoder.num_features, 1, 1), (pixels,)
    for name, shape in zip(NAMES, shapes, strict=True):
        if tuple(found[name].shape) != shape:
            raise CheckpointError(f"{name} of {stored.place} has shape {tuple(found[name].shape)}, not {shape}.")
    return {name: found[name].float() for name in NAMES}


def _of_state(state: Path) -> dict[str, Tensor]:
    if zero.is_zero(state):
        if not zero.is_installed():
            raise CheckpointError(f"{state} was written by DeepSpeed: pip install 'swinmim[deepspeed]' to read it.")
        return zero.merged_weights(state)
    try:
        content = torch.load(state, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, *UNLOADABLE) as error:
        raise CheckpointError(f"{state} is no trainer state of this program, or damaged.") from error
    weights = content.get("state_dict") if isinstance(content, dict) else None
    return under("network.", weights) if isinstance(weights, dict) else {}
