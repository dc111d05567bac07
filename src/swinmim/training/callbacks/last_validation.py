"""Validate the last weights before they are saved, wherever max_steps ends the run."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class LastValidation(Callback):
    """Makes the end of the run a validation epoch. Lightning skips it where max_steps falls inside an epoch or between
    two validation epochs; the last checkpoint would then lack its metrics.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == trainer.max_steps:
            trainer.check_val_every_n_epoch = 1
            trainer.should_stop = True  # which is when Lightning validates inside an epoch

    def on_train_epoch_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1
