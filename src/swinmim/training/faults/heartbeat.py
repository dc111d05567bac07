"""Tells the watch of `training/faults/watch.py` what this rank is doing."""

import signal
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from swinmim import private
from swinmim.errors import Stopped, UserError
from swinmim.training.callback_settings import HeartbeatConfig
from swinmim.training.faults.watch import Watch


def _mark(doing: str) -> Any:
    """A hook of the callback that says so."""

    def hook(self: "Heartbeat", trainer: L.Trainer, *_: Any) -> None:
        if self.watch is not None:
            self.watch.mark(trainer.global_step, doing)

    return hook


class Heartbeat(Callback):
    """One watch per rank, from the first contact of the processes to the end of fit."""

    def __init__(self, config: HeartbeatConfig) -> None:
        self.config = config
        self.watch: Watch | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size == 1 or stage != "fit":
            return
        children = private.started_ranks(trainer)

        def end_children() -> None:
            for child in children:
                child.send_signal(signal.SIGKILL)

        watch = Watch(
            trainer.global_rank,
            trainer.world_size,
            silence_s=self.config.silence_s,
            stall_s=self.config.stall_s,
            on_end=end_children if children else None,
        )
        host = private.cluster_environment(trainer).main_address
        door = watch.listen(host) if trainer.is_global_zero else None
        door = trainer.strategy.broadcast(door)
        assert door is not None
        if not trainer.is_global_zero:
            watch.connect(host, *door)
        private.dismiss_child_observer()  # it would answer a code that all ranks agreed on too
        watch.start()
        self.watch = watch

    on_train_batch_start = _mark("forward pass")
    on_before_backward = _mark("backward pass")
    on_train_batch_end = _mark("waiting for data")
    on_validation_batch_start = _mark("validation")
    on_train_epoch_end = _mark("end of the epoch")
    on_save_checkpoint = _mark("saving a checkpoint")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self.watch is not None:
            self.watch.leave()
            self.watch = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self.watch is None:
            return
        if not isinstance(exception, UserError):
            # a broken connection to a rank that has died: the watch is about to say which one, and ends this process
            time.sleep(3)
        agreed = isinstance(exception, Stopped)
        first_line = (str(exception) or "no message").splitlines()[0]
        self.watch.leave("" if agreed else f"{type(exception).__name__}: {first_line}")
