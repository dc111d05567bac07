"""What Lightning and torch offer only under private names: one function each, with the version it was read from.

A new version that renames one breaks its test in `tests/swinmim/test_private.py` and this file, nothing else. Lightning
and torch are imported by the functions, so that importing this file costs nothing.
"""

import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from multiprocessing.process import BaseProcess

    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import WeightAveraging
    from lightning.pytorch.loops.fit_loop import _FitLoop
    from lightning.pytorch.loops.progress import _ProcessedTracker, _Progress
    from lightning.pytorch.strategies import DeepSpeedStrategy
    from torch.optim.swa_utils import AveragedModel
    from torch.utils.data import DataLoader


def cluster_environment(trainer: "Trainer") -> "ClusterEnvironment":
    """What tells a trainer its ranks and the main address (Lightning 2.6.6)."""
    return trainer._accelerator_connector.cluster_environment


def started_ranks(trainer: "Trainer") -> "list[subprocess.Popen[bytes]]":
    """The other ranks, where Lightning itself has started them from this process (Lightning 2.6.6)."""
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    return launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []


def dismiss_child_observer() -> None:
    """End Lightning's thread that kills this process when a rank it started ends with any code but 0 (2.6.6)."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._run = lambda: True  # type: ignore[attr-defined]


def drop_sigterm_broadcast(trainer: "Trainer") -> None:
    """No broadcast, and no wait for the device, at every micro-batch to ask whether rank 0 got SIGTERM (2.6.6)."""
    loop = trainer.fit_loop.epoch_loop
    assert hasattr(loop, "_broadcast_sigterm_tensor")
    loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def adds_distributed_sampler(trainer: "Trainer") -> bool:
    """Whether the trainer would divide the data among processes itself (Lightning 2.6.6)."""
    return bool(trainer._accelerator_connector.use_distributed_sampler)


def counters(progress: "_Progress", *, total: bool = False) -> "_ProcessedTracker":
    """`ready`, `started`, `processed` and `completed` of a loop, to read and to set (Lightning 2.6.6).

    total: summed over all times that the loop ran.
    """
    from lightning.pytorch.loops.progress import _ProcessedTracker

    tracker = progress.total if total else progress.current
    assert isinstance(tracker, _ProcessedTracker)
    return tracker


def begin_anew(loop: "_FitLoop") -> None:
    """Let a loop and those in it forget that they were restored from a checkpoint (Lightning 2.6.6).

    Not the fit loop's own setter of `restarting`, which says True wherever steps are counted.
    """
    from lightning.pytorch.loops.loop import _Loop

    _Loop.restarting.fset(loop, False)  # type: ignore[attr-defined]


def averaged(callback: "WeightAveraging") -> "AveragedModel":
    """The averaged module, from `setup` on (Lightning 2.6.6)."""
    assert callback._average_model is not None
    return callback._average_model


def loader_workers(loader: "DataLoader[Any]") -> "list[BaseProcess]":
    """The processes of a loader with persistent workers, by their number; none before it has started them (torch
    2.15)."""
    return getattr(loader._iterator, "_workers", [])


def forget_workers(loader: "DataLoader[Any]") -> None:
    """Take the workers of a loader with persistent ones off torch's watch, whose signal handler raises anew at every
    further child that ends (torch 2.15)."""
    from torch._C import _remove_worker_pids

    batches = loader._iterator
    if batches is not None and getattr(batches, "_worker_pids_set", False):
        batches._worker_pids_set = False  # type: ignore[attr-defined]
        _remove_worker_pids(id(batches))


def complete_deepspeed_config(strategy: "DeepSpeedStrategy") -> None:
    """Add what Lightning knows to the configuration before the model is set up (Lightning 2.6.6)."""
    strategy._init_config_if_needed()


def start_deepspeed(strategy: "DeepSpeedStrategy", *, training: bool) -> None:
    """`init_deepspeed` without its warning that our clipping hook is not the one that clips (Lightning 2.6.6)."""
    if training:
        strategy._initialize_deepspeed_train(strategy.model)  # type: ignore[arg-type]
    else:
        strategy._initialize_deepspeed_inference(strategy.model)  # type: ignore[arg-type]


def load_universal(engine: Any, wanted: bool) -> None:
    """Whether an engine's next `load_checkpoint` expects the form for any number of ranks (DeepSpeed 0.19)."""
    engine._config.load_universal_checkpoint = wanted


def leave_clients_unloaded() -> None:
    """Take no folder for one of a client (gcsfs, s3fs) that nothing has loaded; else each is imported to find out, with
    a line on the console (Lightning 2.6.6)."""
    from lightning.fabric.utilities import cloud_io

    cloud_io.module_available = sys.modules.__contains__  # type: ignore[assignment, attr-defined]


def cpu_has_bf16() -> bool:
    """Whether this machine's CPU multiplies bf16 matrices natively (torch 2.15)."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
