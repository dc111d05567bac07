"""DeepSpeed's checkpoint directories: what they hold, safe loading, and the way to plain weights.

`state.ckpt/checkpoint/` has one `*_model_states.pt` (per rank at stage 3) and one `*_optim_states.pt` per rank.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import io
import os
import pickle
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from swinmim.checkpoint.coverage import coverage
from swinmim.checkpoint.encoder import encoder_of
from swinmim.checkpoint.io import STATE
from swinmim.checkpoint.manifest import read_manifest
from swinmim.checkpoint.task_model import save_task_model, under
from swinmim.errors import CheckpointError
from swinmim.outside import UNLOADABLE
from swinmim.paths import shell_quoted

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

    Raises CheckpointError: it is not DeepSpeed's, or files of some ranks are missing.
    """
    if not is_zero(state):
        raise CheckpointError(
            f"{state} was not written by DeepSpeed; resume with the strategy of that run (single or ddp), or start "
            f"from its weights: ckpt={shell_quoted(state.parent)}."
        )
    ranks = [
        int(match[1])
        for path in (state / TAG).glob("*_optim_states.pt")
        if (match := re.search(r"zero_pp_rank_(\d+)_mp_rank_00_optim_states", path.name))
    ]
    if not ranks or sorted(ranks) != list(range(len(ranks))):
        raise CheckpointError(f"{state} lacks the optimizer files of some ranks (it has those of {sorted(ranks)}).")
    partitioned = list((state / TAG).glob("zero_pp_rank_*_model_states.pt"))
    first = next((state / TAG).glob("*zero_pp_rank_0_mp_rank_00_optim_states.pt"))
    try:
        with safe_loading():
            stage = int(torch.load(first, map_location="meta", weights_only=True)["optimizer_state_dict"]["zero_stage"])
    except UNLOADABLE as error:
        raise CheckpointError(f"{first} is damaged, or not DeepSpeed's; resume from an older step.") from error
    if (stage == 3) != bool(partitioned):
        raise CheckpointError(f"{state} mixes files of several ZeRO stages; resume from an older step beside it.")
    return Saved(world_size=len(ranks), stage=stage, has_universal=(state / UNIVERSAL_TAG).is_dir())


@contextlib.contextmanager
def safe_loading() -> Iterator[None]:
    """Inside, every torch.load of DeepSpeed unpickles tensors, plain values and three types of DeepSpeed's only.

    DeepSpeed's own calls would take any pickle; torch lets the environment overrule them, and has no other switch.

    Raises CheckpointError: a file holds anything else, and nothing of it has run.
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


def to_encoder_folder(step: Path, folder: Path, like: Path | None = None) -> Path:
    """Write the encoder folder of a DeepSpeed checkpoint, without a GPU and on any number of processes. Returns it.

    step: a checkpoint directory `checkpoints/step_*`. like: an encoder folder of the same run, for its manifest;
    default `step/encoder`.

    Raises CheckpointError: no DeepSpeed checkpoint, no manifest, or weights of another architecture.
    """
    state = step / STATE
    inspect(state)
    like = like or step / "encoder"
    manifest = read_manifest(like)
    encoder = encoder_of(manifest)
    weights = merged_weights(state)
    report = coverage(encoder.state_dict(), under("encoder.", weights))
    if not report.complete:
        raise CheckpointError(f"the weights in {state} are not those that {like} describes:\n  {report}")
    return save_task_model(encoder, folder, weights, manifest.history())


def merged_weights(state: Path) -> dict[str, Tensor]:
    """The network's fp32 weights, merged from the parts of all ranks, on the CPU."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with safe_loading(), _silence():
        merged = get_fp32_state_dict_from_zero_checkpoint(str(state), tag=TAG)
    return under("network.", merged)


def to_universal(state: Path) -> Path:
    """Write `checkpoint_universal` beside the parts of the ranks, from which any number of ranks can resume.

    Raises CheckpointError: not a DeepSpeed checkpoint.
    """
    from deepspeed.checkpoint import ds_to_universal

    inspect(state)
    target = state / UNIVERSAL_TAG
    draft = state / f".{UNIVERSAL_TAG}.partial"
    shutil.rmtree(draft, ignore_errors=True)
    with safe_loading(), _silence():
        ds_to_universal.main(
            argparse.Namespace(
                input_folder=str(state / TAG),
                output_folder=str(draft),
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                inject_missing_state=True,
            )
        )
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return target


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """DeepSpeed's converters print file lists and bars."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
