"""DeepSpeed's checkpoint directories: what they hold, safe loading, and the way to plain weights.

`state.ckpt/checkpoint/` has one `*_model_states.pt` (per rank at stage 3) and one `*_optim_states.pt` per rank.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from swinmim.errors import CheckpointError

TAG = "checkpoint"
UNIVERSAL_TAG = "checkpoint_universal"
_FORCE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_FORCE_NOT = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


@dataclasses.dataclass(frozen=True)
class Saved:
    """What a DeepSpeed directory says about itself."""

    world_size: int
    stage: int
    has_universal: bool


def is_installed() -> bool:
    """Whether DeepSpeed can be imported."""
    return importlib.util.find_spec("deepspeed") is not None


def is_zero(state: Path) -> bool:
    """Whether the trainer state is DeepSpeed's directory and not one file."""
    return (state / TAG).is_dir()


def inspect(state: Path) -> Saved:
    """Number of ranks and stage that wrote a directory.

    Raises:
        CheckpointError: it is not DeepSpeed's, or files of some ranks are missing.
    """
    if not is_zero(state):
        raise CheckpointError(
            f"{state} was not written by DeepSpeed; resume with the strategy of that run (single or ddp), or start "
            f"from its weights: ckpt={state.parent}."
        )
    ranks = [
        int(match[1])
        for path in (state / TAG).glob("*_optim_states.pt")
        if (match := re.search(r"zero_pp_rank_(\d+)_mp_rank_00_optim_states", path.name))
    ]
    if not ranks or sorted(ranks) != list(range(len(ranks))):
        raise CheckpointError(f"{state} lacks the optimizer files of some ranks (it has those of {sorted(ranks)}).")
    partitioned = list((state / TAG).glob("zero_pp_rank_*_model_states.pt"))
    with safe_loading():
        optim = torch.load(
            next((state / TAG).glob("*zero_pp_rank_0_mp_rank_00_optim_states.pt")),
            map_location="meta",
            weights_only=True,
        )
    stage = int(optim["optimizer_state_dict"]["zero_stage"])
    if (stage == 3) != bool(partitioned):
        raise CheckpointError(f"{state} mixes files of several ZeRO stages; resume from an older step beside it.")
    return Saved(world_size=len(ranks), stage=stage, has_universal=(state / UNIVERSAL_TAG).is_dir())


@contextmanager
def safe_loading() -> Iterator[None]:
    """Inside, every torch.load of DeepSpeed unpickles tensors, plain values and three types of DeepSpeed's only.

    DeepSpeed asks for weights_only=False; torch lets the environment overrule that, and has no other switch.

    Raises:
        CheckpointError: a file holds anything else, and nothing of it has run.
    """
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    before = {name: os.environ.pop(name, None) for name in (_FORCE, _FORCE_NOT)}
    os.environ[_FORCE] = "1"
    try:
        with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
            yield
    except pickle.UnpicklingError as error:
        what = re.search(r"GLOBAL (\S+)", str(error))
        raise CheckpointError(
            "a DeepSpeed checkpoint holds more than tensors and plain values"
            f"{f' ({what[1]})' if what else ''}; loading it could run code, so it is refused. Take one that this "
            "program wrote, or start from an encoder folder."
        ) from error
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
