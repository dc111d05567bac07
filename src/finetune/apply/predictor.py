"""A trained task model to call from Python, without Hydra, Lightning or a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.codecs.bands import Pixels
from data.codecs.decode import MAX_PIXELS, DecodeError, decode, to_mode
from data.loading.batch import Batch
from data.loading.normalise import normalise
from data.loading.views import CenterCrop
from data.sources.source import read_file
from finetune.apply.files import batch_of
from finetune.apply.trained import Trained, open_trained
from finetune.model import prepared
from finetune.task import Rows
from swinmim.checkpoint.encoder import load_manifest
from swinmim.checkpoint.manifest import Manifest
from swinmim.errors import ConfigError, DataError
from swinmim.models.swinv2 import SwinV2
from swinmim.models.windows import as_pair

Picture = Image.Image | str | Path | Pixels
"""Of Pillow, a file, or an array (H, W, C) of uint8 or uint16."""


class TaskPredictor:
    """A task model with all that stands between pictures and its answers.

    trained: the model. resolution: pixels, or (height, width); None is the model's own. precision: "bf16-mixed" runs
    under autocast. Raises ConfigError: a resolution that does not fit.
    """

    def __init__(
        self,
        trained: Trained,
        resolution: int | Sequence[int] | None = None,
        device: str | torch.device = "cpu",
        precision: str = "32-true",
    ) -> None:
        self.task, self.manifest, self.precision = trained.task, trained.manifest, precision
        self.network = trained.network(resolution=resolution).to(device)
        self.resolution = self.network.encoder.resolution
        self.view = self.task.views(self.resolution)[1]
        self.device = torch.device(device)
        self.mean = torch.tensor(self.manifest.mean, device=device)
        self.std = torch.tensor(self.manifest.std, device=device)

    @property
    def classes(self) -> tuple[str, ...]:
        """What the answers name."""
        return self.task.subject.classes

    def predict(self, images: Sequence[Picture], batch_size: int = 32) -> Rows:
        """An answer for each image, in their order: see `finetune.task.Row` and the task's `predict`.

        Raises DataError: an image that cannot be read.
        """
        if isinstance(images, str | Path | Image.Image):
            raise TypeError(f"predict takes a list of images, got one {type(images).__name__}. Write [image].")
        rows: Rows = []
        for begin in range(0, len(images), batch_size):
            numbers = range(begin, min(begin + batch_size, len(images)))
            pixels = [self._opened(images[n]) for n in numbers]
            seen = [self.view(image, None, n)[0] for n, image in zip(numbers, pixels, strict=True)]
            native = getattr(self.view, "native", False)
            rows += self.answer(batch_of(seen, [image.shape[:2] for image in pixels], numbers, native))
        return rows

    def _opened(self, image: Picture) -> Any:
        if not hasattr(self.view, "open"):
            return _pixels(image, self.manifest.in_chans, self.task.subject.bits)
        if not isinstance(image, str | Path):
            raise DataError(f"task={self.task.kind} answers about files of clips, got {type(image).__name__}.")
        try:
            return self.view.open(read_file(Path(image)), MAX_PIXELS)
        except (DecodeError, OSError) as error:
            raise DataError(f"{image} cannot be read: {error}.") from error

    @torch.inference_mode()
    def answer(self, batch: Batch) -> Rows:
        """The same of images that the view of evaluation gave."""
        images = batch["image"]
        there = [image.to(self.device) for image in images] if isinstance(images, list) else images.to(self.device)
        with autocast(self.device, self.precision):
            output = self.task.infer(self.network, prepared(there, self.mean, self.std))
        return self.task.predict(output, batch)


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """What a precision means for a forward pass, as Lightning does it."""
    if precision == "bf16-mixed":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def load_model(
    path: str | Path, resolution: int | Sequence[int] | None = None, device: str | torch.device = "cpu"
) -> TaskPredictor:
    """The task model of a run of finetune, of one of its checkpoints, or of a folder.

    resolution: another one than the model's own grows or shrinks its windows, see `swinmim.load_encoder`.
    Raises CheckpointError: there is none; ConfigError: a resolution that does not fit.
    """
    return TaskPredictor(open_trained(path), resolution, device)


def preprocess(
    source: SwinV2 | str | Path, resolution: int | Sequence[int] | None = None
) -> Callable[[Picture], Tensor]:
    """What makes of a picture the normalised float32 tensor (C, H, W) that an encoder takes, as it was evaluated.

    source: an encoder that `swinmim.load_encoder` read, or a folder. Size, crop, mean and deviation are the folder's;
    the size of an encoder is its own. Raises ConfigError: an encoder that was not loaded, or has other channels.
    """
    if not isinstance(source, SwinV2):
        manifest = load_manifest(source)
        return _Preprocess(manifest, as_pair(resolution) if resolution is not None else manifest.resolution)
    known = source.origin
    if not isinstance(known, Manifest):
        raise ConfigError(
            "preprocess knows the normalisation of encoders that swinmim.load_encoder read; this one was made. Give "
            "the folder that its images come from, or normalise them yourself."
        )
    if source.in_chans != known.in_chans:
        raise ConfigError(
            f"The encoder takes {source.in_chans} channels, and the folder that it was loaded from knows the mean of "
            f"{known.in_chans}. Normalise the images yourself."
        )
    return _Preprocess(known, as_pair(resolution) if resolution is not None else source.resolution)


def evaluation_view(manifest: Manifest, resolution: tuple[int, int]) -> CenterCrop:
    """The view of evaluation as a manifest tells it."""
    how = manifest.evaluation
    return CenterCrop(resolution, how.crop_pct, how.crop_mode, how.interpolation)


class _Preprocess:
    def __init__(self, manifest: Manifest, resolution: tuple[int, int]) -> None:
        self.manifest, self.view = manifest, evaluation_view(manifest, resolution)

    def __call__(self, image: Picture) -> Tensor:
        """Raises DataError: it cannot be read."""
        seen, _ = self.view(_pixels(image, self.manifest.in_chans, 8), None, 0)
        return normalise(seen[None], self.manifest.mean, self.manifest.std)[0]


def _pixels(image: Picture, channels: int, bits: Any) -> Pixels:
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != channels or image.dtype not in (np.uint8, np.uint16):
            raise DataError(
                f"An array of an image is uint8 or uint16 (H, W, {channels}), got {image.dtype} {image.shape}."
            )
        return image.copy()  # whatever its strides
    try:
        if isinstance(image, Image.Image):
            if channels not in (1, 3):
                raise DataError(f"The model takes {channels} channels: give arrays (H, W, {channels}) or files.")
            flat = to_mode(image, "RGB" if channels == 3 else "L")
            return np.array(flat).reshape(flat.height, flat.width, channels)
        return decode(read_file(Path(image)), channels, bits=bits)
    except (DecodeError, OSError) as error:
        raise DataError(
            f"{image if isinstance(image, str | Path) else 'The image'} cannot be read: {error}."
        ) from error
