"""SIGTERM, SIGHUP and SIGUSR1 end a run at the next border of an optimizer step, on all ranks, with everything saved.

The handlers only set a flag. At every optimizer step the flags are summed over the ranks on the device and read one
step later (`faults/border.py`): 8 bytes per step, no rank waits for another one, and all stop at the same step.
"""

import logging
import os
import signal
import stat
import subprocess
from types import FrameType
from typing import Any, Self

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from swinmim import private
from swinmim.errors import Stopped
from swinmim.paths import shell_quoted
from swinmim.training.callbacks.checkpoint import Checkpoints
from swinmim.training.faults.border import Border, sum_over_ranks

log = logging.getLogger(__name__)

HANDLED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Signals(Callback):
    """A context manager round `trainer.fit`, and the callback that acts on what arrived.

    SIGUSR1 is SLURM's notice (`--signal=USR1@300`): the job is put back into the queue. SIGTERM is not answered so,
    because `scancel` sends it too; a preempting scheduler puts the job back by itself. SIGHUP is a closed terminal; a
    run that ignores it from the start (nohup) goes on ignoring it.
    """

    def __init__(self) -> None:
        self.received: set[int] = set()
        self.stopped: Stopped | None = None
        self._border = Border()
        self._step = -1
        self._before: dict[int, Any] = {}
        self._outputs: list[int] = []

    def __enter__(self) -> Self:
        handlers = {number: signal.getsignal(number) for number in HANDLED}
        self._before = {n: of for n, of in handlers.items() if (n, of) != (signal.SIGHUP, signal.SIG_IGN)}
        self._outputs = [descriptor for descriptor in (1, 2) if _ends_with_the_terminal(descriptor)]
        self._install()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and issubclass(kind, Stopped):
            return  # a second signal must not change the exit code on the last metres
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _install(self) -> None:
        for number in self._before:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.add(number)
        if number == signal.SIGHUP:  # a line to a terminal that is gone would end the run before it has saved
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in self._outputs:
                os.dup2(nowhere, descriptor)
            os.close(nowhere)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._install()  # Lightning has wrapped the handlers in its own, which talk to other ranks at any point
        if trainer.world_size > 1:
            private.drop_sigterm_broadcast(trainer)  # its second way; ours takes its place
        self._step = trainer.global_step

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if trainer.global_step == self._step:
            return  # inside an accumulation
        self._step = trainer.global_step
        wanted = self._agree(trainer, pl_module)
        if self.stopped is not None or not wanted:
            return
        names = " and ".join(signal.Signals(number).name for number in wanted)
        log.info("%s: saving step %d", names, trainer.global_step)
        checkpoints = Checkpoints.of(trainer)
        checkpoints.save_now(trainer, pl_module)
        requeued = signal.SIGUSR1 in wanted and trainer.is_global_zero and requeue()
        self.stopped = Stopped(
            f"{names} ended the run after step {trainer.global_step}; everything is saved in {checkpoints.root}. "
            + (
                "SLURM will start it again."
                if requeued
                else f"To go on, add output_dir={shell_quoted(checkpoints.output_dir)} resume=auto to the same command."
            )
        )

    def _agree(self, trainer: L.Trainer, pl_module: L.LightningModule) -> list[int]:
        """The signals that some rank has received; the same on every rank."""
        if trainer.world_size == 1:
            return [number for number in HANDLED if number in self.received]
        before = self._border.read()
        flags = torch.zeros(len(HANDLED), device=pl_module.device)
        for place, number in enumerate(HANDLED):
            if number in self.received:
                flags[place].fill_(1)
        self._border.put(sum_over_ranks(flags))
        return [number for number, count in zip(HANDLED, before or (), strict=False) if count]

    def _raise(self, *_: Any, **__: Any) -> None:
        if self.stopped is not None:
            raise self.stopped

    # Not `on_train_batch_end`: the metrics of the last step are logged after it.
    on_train_batch_start = on_validation_start = on_train_epoch_end = _raise


def _ends_with_the_terminal(descriptor: int) -> bool:
    """Whether it is one, or a pipe, whose reader (tee) mostly ends with it."""
    try:
        return os.isatty(descriptor) or stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except OSError:  # closed
        return False


def requeue() -> bool:
    """Ask SLURM to start this job again; False outside SLURM, or when it refuses, which is logged."""
    if "SLURM_JOB_ID" not in os.environ:
        return False
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60, capture_output=True, text=True)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("scontrol requeue %s failed (%s); start the job again yourself, with resume=auto", job, error)
        return False
    return True
