"""What a frozen task is: it measures an encoder as it is. No network is trained and nothing is resumed.

As a task it is one file in `tasks/`, one in conf/task/, one test, and a name in `tasks/registry.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Generic, Literal, NamedTuple, TypeVar

from finetune.task import TaskConfig
from swinmim.config import Count, schema
from swinmim.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from data.codecs.targets import Needs
    from data.loading.views import View
    from swinmim.evaluation.features import Features
    from swinmim.models.swinv2 import SwinV2
    from swinmim.models.windows import Pair


@schema
class FrozenConfig(TaskConfig):
    stages: tuple[Count, ...] | None
    """Stages to look at, counted from 1; null is the last two."""
    crop_ratio: float
    """What is kept of the shorter side, or with squash of both, around the centre."""
    crop_mode: Literal["center", "squash"]
    """center keeps the aspect, squash bends the whole picture into the resolution."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must lie in (0, 1], got {self.crop_ratio}")
        if self.stages is not None and (not self.stages or len(set(self.stages)) < len(self.stages)):
            raise ValueError(f"stages names each stage once, or is null for the last two; got {list(self.stages)}")


class Measured(NamedTuple):
    """One line of the table."""

    stage: int
    head: str
    top1: float
    """Share of right answers on the validation set."""
    chosen: dict[str, float]
    """What was chosen without it, and how good that was there; empty where nothing is to choose."""


class Effort(NamedTuple):
    """What a measurement may spend; of knn nothing counts but the device."""

    epochs: int
    batch_size: int
    seed: int
    device: torch.device


Config = TypeVar("Config", bound=FrozenConfig)


class FrozenTask(ABC, Generic[Config]):
    """One kind of question to an encoder as it is. Raises UserError: settings that do not fit the encoder."""

    kind: ClassVar[str]
    Settings: ClassVar[type[FrozenConfig]]
    needs: ClassVar[Needs] = "label"

    def __init__(self, settings: Config, encoder: SwinV2, classes: int) -> None:
        """encoder: of the architecture in question; its weights do not matter."""
        self.settings, self.classes = settings, classes
        self.channels = encoder.architecture.stage_dims
        known = range(1, len(self.channels) + 1)
        self.stages = settings.stages or tuple(known[-2:])
        if not set(self.stages) <= set(known):
            raise ConfigError(
                f"task.stages counts the stages of the encoder from 1; it has {len(known)}, got {list(self.stages)}."
            )

    @property
    def keeps_maps(self) -> bool:
        """Whether `measure` reads whole maps beside their means."""
        return False

    def view(self, size: Pair) -> View:
        """Of all images; there is no augmentation."""
        from data.loading.views import CenterCrop

        return CenterCrop(size, self.settings.crop_ratio, self.settings.crop_mode)

    @abstractmethod
    def measure(self, train: Features, val: Features, effort: Effort) -> list[Measured]:
        """Learn from one set, report on the other. Raises UserError: too few images."""

    def remarks(self, measured: list[Measured]) -> list[str]:
        """What a reader of the table must know."""
        return [
            "SimMIM's yardstick is fine-tuning (task=classify): a SimMIM ViT-B has kNN 8.6, linear 47.1 and attentive "
            "64.9 % on ImageNet-1K (github.com/billpsomas/efficient-probing)."
        ]
