"""What tasks share that give one answer for a whole image: crops, flips, and one linear layer on the pooled map."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from finetune.task import Task, TaskConfig
from swinmim.config import schema
from swinmim.errors import ConfigError
from swinmim.models.swinv2 import SwinV2
from swinmim.models.windows import Pair

if TYPE_CHECKING:
    from data.loading.batch import Batch
    from data.loading.views import View


@schema
class PooledConfig(TaskConfig):
    crop_scale: tuple[float, float]
    """Share of the image's area that a random crop keeps."""
    flip: bool
    randaug_ops: int
    """Operations of RandAugment per image; 0 is off."""
    randaug_magnitude: int
    """Strength of RandAugment, 0 to 30."""
    erasing: float
    """Probability that a rectangle of an image is replaced by noise; 0 is off."""
    crop_ratio: float
    """Evaluation: the shorter side is resized to resolution / crop_ratio, then the centre is cut out."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must lie in (0, 1], got {self.crop_ratio}")
        if self.randaug_ops == 0 and self.randaug_magnitude != 0:
            raise ValueError("randaug_magnitude has no effect with randaug_ops=0; set it to 0")


Config = TypeVar("Config", bound=PooledConfig)


class PooledTask(Task[Config]):
    """Base of such tasks: one output for each class."""

    def head(self, encoder: SwinV2) -> nn.Linear:
        head = nn.Linear(encoder.num_features, len(self.subject.classes))
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    def views(self, size: Pair) -> tuple[View, View]:
        """Raises ConfigError for RandAugment on images that it does not know."""
        from data.loading.views import CenterCrop, RandomCrop

        settings, subject = self.settings, self.subject
        if settings.randaug_ops and not (subject.channels in (1, 3) and subject.bits == 8):
            raise ConfigError(
                f"RandAugment knows 1 or 3 channels of 8 bits, got {subject.channels} of {subject.bits}."
                " Add task.randaug_ops=0 task.randaug_magnitude=0."
            )
        training = RandomCrop(
            size,
            settings.crop_scale,
            interpolation="bicubic",
            num_ops=settings.randaug_ops,
            magnitude=settings.randaug_magnitude,
            flip=settings.flip,
        )
        return training, CenterCrop(size, settings.crop_ratio)

    def mix(self, images_BCHW: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        if self.settings.erasing:
            from timm.data.random_erasing import RandomErasing

            erase = RandomErasing(self.settings.erasing, mode="pixel", device=str(images_BCHW.device))
            images_BCHW = erase(images_BCHW)
        return images_BCHW, batch
