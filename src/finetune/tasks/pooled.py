"""What tasks share that give one answer for a whole image: crops, flips, and one linear layer on the pooled map."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from finetune.task import Task, TaskConfig
from swinmim.config import Area, Share, schema
from swinmim.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from data.loading.batch import Batch
    from data.loading.views import View
    from swinmim.models.swinv2 import SwinV2
    from swinmim.models.windows import Pair


@schema
class PooledConfig(TaskConfig):
    crop_scale: tuple[Area, Area]
    """Share of the image's area that a random crop keeps."""
    flip: bool
    randaug: str | None
    """RandAugment by timm's name: rand-m9-mstd0.5-inc1 is Swin's and SimMIM's; null is off."""
    erasing: Share
    """Probability that a rectangle of an image is replaced by noise; 0 is off."""
    crop_ratio: float
    """Evaluation: what is kept of the shorter side, or with squash of both, around the centre."""
    crop_mode: Literal["center", "squash"]
    """Evaluation: center keeps the aspect, squash bends the whole picture into the resolution."""

    def __post_init__(self) -> None:
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale is [least, most], got {list(self.crop_scale)}")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must lie in (0, 1], got {self.crop_ratio}")
        if self.randaug is not None and not _RANDAUG.fullmatch(self.randaug):
            raise ValueError(
                f"randaug is timm's name of a policy: rand, then any of -m0..10 (magnitude), -n (operations), -p"
                f" (probability), -mstd (spread of the magnitude), -inc1; got {self.randaug!r}. Take"
                " rand-m9-mstd0.5-inc1, or null for none."
            )


_RANDAUG = re.compile(r"rand(-m(\d|10)|-n[1-9]|-p(0?\.\d+|[01])|-mstd\d+(\.\d+)?|-inc[01])*")

Config = TypeVar("Config", bound=PooledConfig)


class PooledTask(Task[Config]):
    """Base of such tasks: one output for each class."""

    def head(self, encoder: SwinV2) -> nn.Linear:
        from torch import nn

        head = nn.Linear(encoder.num_features, len(self.subject.classes))
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        return head

    def views(self, size: Pair) -> tuple[View, View]:
        """Raises ConfigError for RandAugment on images that it does not know."""
        from data.loading.views import CenterCrop, RandomCrop

        settings, subject = self.settings, self.subject
        if settings.randaug and not (subject.channels in (1, 3) and subject.bits == 8):
            raise ConfigError(
                f"RandAugment knows 1 or 3 channels of 8 bits, got {subject.channels} of {subject.bits}."
                " Add task.randaug=null."
            )
        training = RandomCrop(
            size, settings.crop_scale, interpolation="bicubic", randaug=settings.randaug, flip=settings.flip
        )
        return training, CenterCrop(size, settings.crop_ratio, settings.crop_mode)

    def evaluation(self) -> dict[str, Any]:
        return {"crop_pct": self.settings.crop_ratio, "crop_mode": self.settings.crop_mode}

    def mix(self, images_BCHW: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        if self.settings.erasing:
            from timm.data.random_erasing import RandomErasing

            erase = RandomErasing(self.settings.erasing, mode="pixel", device=str(images_BCHW.device))
            images_BCHW = erase(images_BCHW)
        return images_BCHW, batch
