"""Names that Lightning and torch call private: one function and one test each, with the version they were read from.

Their modules are imported inside the functions, so that importing this file costs nothing.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess

    import lightning as L
    from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
    from lightning.pytorch.loops.progress import _ProcessedTracker, _Progress
    from lightning.pytorch.strategies import DeepSpeedStrategy


def cluster_environment(trainer: L.Trainer) -> ClusterEnvironment:
    """What tells a trainer its ranks and the main address. Lightning 2.6.6."""
    return trainer._accelerator_connector.cluster_environment


def started_ranks(trainer: L.Trainer) -> list[subprocess.Popen[bytes]]:
    """The other ranks, where Lightning itself has started them from this process. Lightning 2.6.6."""
    from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

    launcher = trainer.strategy.launcher
    return launcher.procs if isinstance(launcher, _SubprocessScriptLauncher) else []


def dismiss_child_observer() -> None:
    """End Lightning's thread that kills this process when a rank it started ends with any code but 0. Lightning 2.6.6."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._run = lambda: True  # type: ignore[attr-defined]


def drop_sigterm_broadcast(trainer: L.Trainer) -> None:
    """No broadcast, and no wait for the device, at every micro-batch to ask whether rank 0 got SIGTERM. Lightning 2.6.6."""
    loop = trainer.fit_loop.epoch_loop
    assert hasattr(loop, "_broadcast_sigterm_tensor")
    loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]


def counters(progress: _Progress) -> _ProcessedTracker:
    """What a loop has readied, started, processed and completed since it began. Lightning 2.6.6."""
    from lightning.pytorch.loops.progress import _ProcessedTracker

    assert isinstance(progress.current, _ProcessedTracker)
    return progress.current


def total_counters(progress: _Progress) -> _ProcessedTracker:
    """The same over all restarts. Lightning 2.6.6."""
    from lightning.pytorch.loops.progress import _ProcessedTracker

    assert isinstance(progress.total, _ProcessedTracker)
    return progress.total


def complete_deepspeed_config(strategy: DeepSpeedStrategy) -> None:
    """Add what Lightning knows to the configuration before the model is set up. Lightning 2.6.6."""
    strategy._init_config_if_needed()


def start_deepspeed(strategy: DeepSpeedStrategy, *, training: bool) -> None:
    """Lightning's `init_deepspeed` without its warning that our clipping hook is not the one that clips. 2.6.6."""
    if training:
        strategy._initialize_deepspeed_train(strategy.model)  # type: ignore[arg-type]
    else:
        strategy._initialize_deepspeed_inference(strategy.model)  # type: ignore[arg-type]


def load_universal(engine: Any, wanted: bool) -> None:
    """Whether a DeepSpeed engine's next `load_checkpoint` expects the form for any number of ranks. DeepSpeed 0.19."""
    engine._config.load_universal_checkpoint = wanted


def cpu_has_bf16() -> bool:
    """Whether this machine's CPU multiplies bf16 matrices natively. torch 2.15."""
    import torch

    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
