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

    # not at the end of the validation: `Checkpoints`, the last of the callbacks, looks at it first
    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(TrainingModule, pl_module)
        checkpoints, plan = Checkpoints.of(trainer), module.plan
        monitor, step, best = checkpoints.monitor, trainer.global_step, checkpoints.best
        told = f"{monitor} was never finite"
        if best is not None:
            best_epoch = best.step / plan.steps_per_epoch
            module.log(monitor.replace("val/", "best/"), best.score)
            module.log("best/epoch", best_epoch)
            told = f"best {monitor} {best.score:.4f} in epoch {best_epoch:.3g}"
            if best.step == step:
                told = f"the best {monitor} so far"
        found = measured(trainer.callback_metrics)  # on all ranks, some of whose metrics are summed here
        if module.validated == step and trainer.is_global_zero:
            epoch = step / plan.steps_per_epoch
            log.info("validation, epoch %.3g, step %d of %d: %s (%s)", epoch, step, plan.total_steps, found, told)


def measured(metrics: Mapping[str, Any]) -> str:
    """What the last validation found."""
    return ", ".join(f"{name} {float(value):.4f}" for name, value in metrics.items() if name.startswith("val/"))
