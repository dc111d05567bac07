"""The same few validation images at validations: image, truth and what the network says."""

from pathlib import Path
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data.loading.batch import Batch
from data.loading.dataset import still
from data.loading.module import ShardData
from finetune.module import TaskModule
from finetune.task import Task
from swinmim.training.callback_settings import PredictionsConfig
from swinmim.training.callbacks.validations import measured

_SIDE = 256  # pixels; larger tiles are shrunk to it, much smaller ones enlarged by whole pixels
_GAP, _LINE = 4, 16


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
        with torch.inference_mode():
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
    """A validation image before the view, uint8 (H, W, 3): three bands of it, or the first one as grey."""
    pixels = still(data.val.read(index).data, data.val, data.eval_view, data.settings)
    eight = (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels
    first = (0, 1, 2) if pixels.shape[2] >= 3 else (0, 0, 0)
    return np.ascontiguousarray(eight[..., bands or first])


def draw_rows(
    task: Task[Any], images: list[NDArray[np.uint8]], truth: list[Any], rows: list[Any], caption: str = ""
) -> Image.Image:
    """The caption over a row for each image: image, truth, prediction; below, what the colours mean."""
    tiles = []
    for image, true, row in zip(images, truth, rows, strict=True):
        drawn = [Image.fromarray(image), *(task.draw(image, said) if said else None for said in (true, row))]
        tiles.append([_fitted(tile) if tile else None for tile in drawn])
    columns = [max([1, *(row[n].width for row in tiles if row[n])]) for n in range(3)]  # type: ignore[union-attr]
    heights = [max(tile.height for tile in row if tile) for row in tiles]
    key = task.legend()
    width = max(sum(columns) + 4 * _GAP, key.width if key else 0, 7 * len(caption))
    top = 2 * _LINE
    height = top + sum(heights) + _GAP * len(heights) + (key.height + _GAP if key else 0)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((_GAP, 2), caption, fill="black")
    lefts = [_GAP + sum(columns[:n]) + _GAP * n for n in range(3)]
    for left, title in zip(lefts, ("image", "truth", "prediction"), strict=True):
        draw.text((left, _LINE + 2), title, fill="black")
    for row, high in zip(tiles, heights, strict=True):
        for left, tile in zip(lefts, row, strict=True):
            if tile:
                picture.paste(tile, (left, top))
        top += high + _GAP
    if key:
        picture.paste(key, (_GAP, top))
    return picture


def _fitted(tile: Image.Image) -> Image.Image:
    longest = max(tile.size)
    if longest > _SIDE:
        return tile.resize([max(1, round(side * _SIDE / longest)) for side in tile.size])
    times = max(1, round(_SIDE / 2 / longest))
    return tile.resize([side * times for side in tile.size], Image.Resampling.NEAREST)
