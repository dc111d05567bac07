"""Fixed images under fixed masks, drawn while the model learns."""

import textwrap
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageDraw
from torch import Tensor

from swinmim.errors import ConfigError
from swinmim.training.callback_settings import ReconstructionsConfig
from swinmim.training.callbacks.averaging import judged_weights
from swinmim.training.callbacks.validations import measured


class Reconstructions(Callback):
    """Writes `OUTPUT/reconstructions/step_*.png` and logs the picture where the logger takes images.

    The datamodule's validation batches must be the same at every call. The module must have `reconstruct(batch)`:
    column title -> images (B, C, H, W) in 0..1, in the order of the columns, and what they show.
    """

    def __init__(self, output_dir: Path, config: ReconstructionsConfig) -> None:
        self.folder = output_dir / "reconstructions"
        self.config = config

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        if not last and (trainer.current_epoch + 1) % self.config.every_epochs:
            return
        loader = trainer.datamodule.val_dataloader()  # type: ignore[attr-defined]
        batch = next(iter(loader))
        count = self.config.num_images
        batch = {name: value[:count].to(pl_module.device) for name, value in batch.items()}
        was_training = pl_module.training
        pl_module.eval()
        with judged_weights(trainer, pl_module), torch.inference_mode():
            columns, shown = pl_module.reconstruct(batch)  # type: ignore[operator]
        pl_module.train(was_training)
        caption = f"{shown}\nstep {trainer.global_step}: {measured(trainer.callback_metrics)}"
        if not trainer.is_global_zero:
            return  # but its part of the weights, and of the metrics, was needed
        picture = draw_columns(columns, caption, bands=self.config.bands)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"step_{trainer.global_step:08d}.png"
        picture.save(path)
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):
                logger.log_image("val/reconstructions", [picture], step=trainer.global_step, caption=[caption])


def draw_columns(
    columns: dict[str, Tensor], caption: str = "", bands: tuple[int, int, int] | None = None
) -> Image.Image:
    """The caption over one row per image, one titled column per entry of title -> (B, C, H, W) in 0..1.

    Images under 96 px are enlarged by whole pixels up to about that side. bands: see `to_rgb`.
    """
    tensors = [to_rgb(images, bands) for images in columns.values()]
    rows, _, height, width = tensors[0].shape
    scale = max(1, round(96 / max(height, width)))
    gap, line = 4, 16
    step_x, step_y = width * scale + gap, height * scale + gap
    full_width = len(tensors) * step_x + gap
    text = [part for row in caption.splitlines() for part in textwrap.wrap(row, (full_width - 2 * gap) // 5)]
    header = line * (len(text) + 1)
    picture = Image.new("RGB", (full_width, rows * step_y + gap + header), "white")
    draw = ImageDraw.Draw(picture)
    for number, part in enumerate(text):
        draw.text((gap, number * line + 2), part, fill="black")
    for column, (title, images) in enumerate(zip(columns, tensors, strict=True)):
        draw.text((gap + column * step_x, header - line + 2), title, fill="black")
        for row in range(rows):
            pixels = (images[row].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            tile = Image.fromarray(pixels).resize((width * scale, height * scale), Image.Resampling.NEAREST)
            picture.paste(tile, (gap + column * step_x, header + row * step_y))
    return picture


def to_rgb(images_BCHW: Tensor, bands: tuple[int, int, int] | None = None) -> Tensor:
    """(B, C, H, W) -> (B, 3, H, W): the channels `bands`; without, the first three, or the first one as grey.

    Raises ConfigError: the images have fewer channels.
    """
    images_BCHW = images_BCHW.float()
    if bands is not None:
        if not all(0 <= band < images_BCHW.shape[1] for band in bands):
            last = images_BCHW.shape[1] - 1
            raise ConfigError(f"callbacks.reconstructions.bands are three of the channels 0 to {last}, got {bands}.")
        return images_BCHW[:, list(bands)]
    return images_BCHW[:, :3] if images_BCHW.shape[1] >= 3 else images_BCHW[:, :1].expand(-1, 3, -1, -1)
