"""What Lightning and torch offer only under private names: one function each, with the version it was read from.

A new version that renames one breaks its test in `tests/swinmim/test_private.py` and this file, nothing else. Lightning
and torch are imported by the functions, so that importing this file costs nothing.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from lightning.pytorch.loops import _FitLoop
    from lightning.pytorch.loops.progress import _ProcessedTracker, _Progress


def adds_distributed_sampler(trainer: "Trainer") -> bool:
    """Whether the trainer would divide the data among processes itself (Lightning 2.6.6)."""
    return bool(trainer._accelerator_connector.use_distributed_sampler)


def counters(progress: "_Progress") -> "_ProcessedTracker":
    """`ready`, `started`, `processed` and `completed` of a loop, to read and to set (Lightning 2.6.6)."""
    from lightning.pytorch.loops.progress import _ProcessedTracker

    assert isinstance(progress.current, _ProcessedTracker)
    return progress.current


def begin_anew(loop: "_FitLoop") -> None:
    """Let a loop and those in it forget that they were restored from a checkpoint (Lightning 2.6.6).

    The fit loop's own `restarting` only reads; the setter of its base tells its children too.
    """
    from lightning.pytorch.loops.loop import _Loop

    _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]


def forget_workers(batches: Iterator[Any] | None) -> None:
    """Take the workers of a `DataLoader`'s iterator off torch's watch, whose signal handler raises anew at every
    further child that ends (torch 2.15)."""
    from torch._C import _remove_worker_pids

    if batches is not None and getattr(batches, "_worker_pids_set", False):
        batches._worker_pids_set = False  # type: ignore[attr-defined]
        _remove_worker_pids(id(batches))
