"""An exception ends a run of one process with a checkpoint of its last whole step."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from swinmim.errors import CheckpointError, DivergedError
from swinmim.training.callbacks.checkpoint import Checkpoints

log = logging.getLogger(__name__)


class Emergency(Callback):
    """Saves on the way out, where what is saved would be right.

    Not in the middle of an optimizer step, not before the first step, not when the fault is in saving itself or the
    weights have diverged, and not with several processes: to save is an act of all ranks, and those that did not fail
    are waiting elsewhere. There the last periodic checkpoint stands.
    """

    def __init__(self) -> None:
        self.whole = False
        """Weights, optimizer, schedule and counters belong to the same step."""

    def on_train_batch_start(self, *_: Any, **__: Any) -> None:
        self.whole = True

    on_train_batch_end = on_train_batch_start

    def on_before_optimizer_step(self, *_: Any) -> None:
        self.whole = False

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if not self.whole or trainer.world_size > 1 or trainer.global_step == 0:
            return
        if isinstance(exception, OSError | CheckpointError | DivergedError):
            return
        checkpoints = Checkpoints.of(trainer)
        if checkpoints.last_saved_step == trainer.global_step:
            return
        try:
            checkpoints.save(trainer, pl_module)
        except (OSError, RuntimeError, CheckpointError) as error:  # the cause of the exception may still be there
            log.warning("no checkpoint of step %d could be saved: %s", trainer.global_step, error)
        else:
            log.warning("step %d is saved in %s; go on with resume=auto", trainer.global_step, checkpoints.root)
