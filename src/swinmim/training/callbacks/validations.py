"""One line for each validation: what was measured, and which is the best so far."""

import logging
from collections.abc import Mapping
from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback

from swinmim.training.callbacks.checkpoint import Checkpoints
from swinmim.training.module import TrainingModule

log = logging.getLogger(__name__)


class Validations(Callback):
    """Writes the line, and logs what `Checkpoints` knows of the best validation as `best/NAME` and `best/epoch`."""

    def __init__(self) -> None:
        self._untold = False

    def on_validation_end(self, *_: Any) -> None:
        self._untold = True  # until `Checkpoints`, the last of the callbacks, has looked at it too

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        best, plan = Checkpoints.of(trainer), cast(TrainingModule, pl_module).plan
        if best.best_step is None:
            return
        epoch, best_epoch = (step / plan.steps_per_epoch for step in (trainer.global_step, best.best_step))
        pl_module.log(best.monitor.replace("val/", "best/"), best.best_score)
        pl_module.log("best/epoch", best_epoch)
        if self._untold and trainer.is_global_zero:
            this = (
                "the best so far" if best.best_step == trainer.global_step else f"the best was epoch {best_epoch:.3g}"
            )
            log.info(
                "validation in epoch %.3g, step %d of %d: %s (%s by %s)",
                *(epoch, trainer.global_step, plan.total_steps, measured(trainer.callback_metrics), this, best.monitor),
            )
        self._untold = False


def measured(metrics: Mapping[str, Any]) -> str:
    """What the last validation found."""
    return ", ".join(f"{name} {float(value):.4f}" for name, value in metrics.items() if name.startswith("val/"))
