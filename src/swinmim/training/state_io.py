"""Trainer state to and from one file: streamed to its place, hashed on the way, read without executing anything.

Lightning's own plugin holds the whole file in memory, writes it to a temporary directory that may be on another disk,
and moves it without flushing.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO
from torch import Tensor
from torch.utils.serialization import config as serialization

from swinmim.checkpoint.coverage import coverage
from swinmim.checkpoint.digest import HashedFile
from swinmim.checkpoint.io import STATE
from swinmim.errors import CheckpointError
from swinmim.outside import UNLOADABLE

PARTS = {"epoch", "global_step", "state_dict", "loops", "optimizer_states", "lr_schedulers"}


class StateIO(CheckpointIO):
    """Lightning's plugin for checkpoint files.

    `file` is the last one written, still to be closed, which flushes it. A write that the operating system refuses is
    kept in `error` and not raised: the other ranks wait in the barrier that ends `trainer.save_checkpoint`, so all must
    pass it first.
    """

    def __init__(self) -> None:
        self.file: HashedFile | None = None
        self.error: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        self.file = self.error = None
        try:
            file = HashedFile(Path(path))
        except OSError as error:
            self.error = error
            return
        try:
            # torch's own checksum costs a third of the writing, and torch.load does not read it
            with serialization.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
                torch.save(checkpoint, file)  # type: ignore[arg-type]  # needs write and flush only
            self.file = file
        except (OSError, RuntimeError) as error:
            file.abandon()
            self.error = error if isinstance(error, OSError) else file.error
            if self.error is None:
                raise

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Tensors, numbers, texts and containers of these; anything else is refused.

        Raises CheckpointError: the file holds other objects, or is no checkpoint.
        """
        try:
            return _load(path, map_location)
        except CheckpointError as error:
            raise CheckpointError(
                f"{path} {error}. Resume from an older step beside it; ckpt takes weights of others."
            ) from error

    def remove_checkpoint(self, path: str | Path) -> None:
        raise RuntimeError("checkpoints are removed as whole directories, by swinmim.checkpoint.io.prune")


def unfit(folder: Path, own: Mapping[str, Tensor]) -> str | None:
    """Why the trainer state of a checkpoint cannot be loaded into a module with these tensors, or None.

    Reads what the state holds and no tensor of it. One in a directory, of all ranks' shards, is DeepSpeed's to judge.
    """
    state = folder / STATE
    if state.is_dir():
        return None
    try:
        held = _load(state, "meta")["state_dict"]
    except CheckpointError as error:
        return f"{folder.name}/{STATE} {error}"
    if not isinstance(held, dict) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        return f"{folder.name}/{STATE} holds no weights"
    report = coverage(own, held)
    return None if report.complete else f"{folder.name}/{STATE} does not fit this model: {report}"


def _load(path: str | Path, map_location: Any) -> dict[str, Any]:
    """Raises CheckpointError: what a file is not, to be said behind its name."""
    try:
        state = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:  # torch's text advises to load it all the same
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise _not_ours(f"it holds {found[1]}, and loading that could run code" if found else "") from error
    except UNLOADABLE as error:
        raise _not_ours("it is damaged, or of another kind") from error
    if not isinstance(state, dict) or not state.keys() >= PARTS:
        raise _not_ours(f"it lacks {', '.join(sorted(PARTS - set(state)))}" if isinstance(state, dict) else "")
    return state


def _not_ours(why: str) -> CheckpointError:
    return CheckpointError(f"is not a trainer state of this program{': ' + why if why else ''}")
