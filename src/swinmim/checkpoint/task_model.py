"""A task model in an encoder folder: the head of any task beside the encoder, under head.*.

A head of one linear layer has timm's names of its classifier, so that timm builds encoder and head; another one keeps
its own names in a file of its own, and timm builds the encoder alone. manifest["task"] says what the outputs mean;
which module the head is knows only who trained it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from swinmim.checkpoint.coverage import coverage
from swinmim.checkpoint.encoder import HEAD, Stored, open_encoder, save_encoder
from swinmim.checkpoint.timm_config import CLASSIFIER
from swinmim.errors import CheckpointError
from swinmim.models.swinv2 import SwinV2

_LINEAR = {"weight", "bias"}


def save_task_model(
    encoder: SwinV2, folder: str | Path, weights: Mapping[str, Tensor], manifest: Mapping[str, Any] | None = None
) -> Path:
    """Write the encoder folder of a network of encoder and head, as `save_encoder` does.

    encoder: its description; its own weights may be on the meta device.
    weights: the network's state dict, encoder.* and head.*; what has another prefix is left out.
    Raises CheckpointError as `save_encoder`, and for a linear head of another width than the encoder's features.
    """
    own, head = under("encoder.", weights), under(HEAD, weights)
    prefix = HEAD
    if head.keys() == _LINEAR and head["weight"].ndim == 2:
        prefix = f"{CLASSIFIER}."
        if (width := head["weight"].shape[1]) != encoder.num_features:
            raise CheckpointError(
                f"The head takes {width} features, the encoder gives {encoder.num_features}; "
                "give the head that was trained on this encoder."
            )
    return save_encoder(encoder, folder, manifest, own | {prefix + name: tensor for name, tensor in head.items()})


def read_head(path: str | Path) -> dict[str, Tensor]:
    """The state dict of the head stored with an encoder (see `open_encoder`); empty where there is none."""
    return _head(open_encoder(path))


def _head(stored: Stored) -> dict[str, Tensor]:
    head = under(HEAD, stored.read())
    classifier = under(CLASSIFIER.removeprefix(HEAD) + ".", head)
    return classifier if len(classifier) == len(head) and classifier.keys() <= _LINEAR else head


def load_head(path: str | Path, head: nn.Module) -> None:
    """Fill `head` with the weights of the head stored with an encoder.

    Raises CheckpointError: there is none, or it is another one (with a coverage report).
    """
    stored = open_encoder(path)
    folder, state = stored.place, _head(stored)
    if not state:
        raise CheckpointError(f"{folder} holds an encoder without a head. Fine-tune it first: python -m finetune.")
    report = coverage(head.state_dict(), state)
    if not report.complete:
        raise CheckpointError(f"The head in {folder} is another one than its task describes:\n  {report}")
    head.load_state_dict(state)


def under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights whose names start with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
