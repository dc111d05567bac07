"""The same few validation images at validations: image, truth and what the network says."""

from pathlib import Path
from typing import cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray

from data.loading.batch import Batch
from data.loading.dataset import still
from data.loading.module import ShardData
from finetune.drawing.answers import draw_rows
from finetune.drawing.tiles import to_rgb
from finetune.module import TaskModule
from finetune.task import Task
from swinmim.training.callback_settings import PredictionsConfig
from swinmim.training.callbacks.averaging import judged_weights
from swinmim.training.callbacks.validations import measured


class Predictions(Callback):
    """Writes `OUTPUT/predictions/epoch_*.png`, and logs the picture where the logger takes images; for tasks that draw.

    Validation batches must be the same at every call, as `ShardData`'s are. Every rank shows its own to the network,
    since its part of the weights may be needed; the first one draws.
    """

    def __init__(self, output_dir: Path, config: PredictionsConfig) -> None:
        self.folder, self.config = output_dir / "predictions", config

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        module = cast(TaskModule, pl_module)
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        due = last or (trainer.current_epoch + 1) % self.config.every_epochs == 0
        if not due or type(module.task).draw is Task.draw:
            return
        data = cast(ShardData, trainer.datamodule)  # type: ignore[attr-defined]
        batch = first_of(next(iter(data.val_dataloader())), self.config.num_images)
        on_device = cast(Batch, trainer.strategy.batch_to_device(batch))
        was_training = module.training
        module.eval()
        with judged_weights(trainer, module), torch.inference_mode():
            output = module.task.infer(module.network, module.prepare(on_device))
            rows, truth = module.task.predict(output, on_device), module.task.truth(on_device)
        module.train(was_training)
        caption = f"epoch {trainer.current_epoch + 1}: {measured(trainer.callback_metrics)}"
        if not trainer.is_global_zero:
            return
        shown = [original(data, index, self.config.bands) for index in batch["index"].tolist()]
        picture = draw_rows(module.task, shown, truth, rows, caption)
        self.folder.mkdir(parents=True, exist_ok=True)
        picture.save(self.folder / f"epoch_{trainer.current_epoch + 1:04d}.png")
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("val/predictions", [picture], step=trainer.global_step, caption=[caption])


def first_of(batch: Batch, count: int) -> Batch:
    """The first samples of a batch."""
    return cast(Batch, {name: value[:count] for name, value in batch.items()})  # type: ignore[index]


def original(data: ShardData, index: int, bands: tuple[int, int, int] | None = None) -> NDArray[np.uint8]:
    """A validation image before the view: see `to_rgb`."""
    return to_rgb(still(data.val.read(index).data, data.val, data.eval_view, data.settings), bands)
