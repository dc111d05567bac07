"""What a task is. A task is one file in `tasks/`, one in conf/task/, one test, and a line in `tasks/registry.py`.

A task knows tensors, and neither Lightning nor a trainer nor a path. What it imports, torch too, it imports inside
its methods, so that settings are checked without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

from swinmim.config import schema

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor, nn
    from torchmetrics import Metric

    from data.codecs.targets import Needs
    from data.loading.batch import Batch
    from data.loading.views import View
    from swinmim.models.swinv2 import SwinV2
    from swinmim.models.windows import Pair

Row = dict[str, Any]
"""An answer about one image, of plain values: text, numbers, lists of them.

Two keys hold more, both in the image before the view (`size`): `mask`, uint8 (H, W), a class for each pixel; `objects`,
a list of dicts with `class`, `score`, `bbox` [x, y, width, height] in pixels, and maybe `mask`, bool (H, W).
"""
Rows = list[Row]
"""One for each image; the same keys in each."""


@schema
class TaskConfig:
    """Base of the settings of every task."""

    kind: str
    """Which task; chosen with task=..."""


@dataclass(frozen=True)
class Subject:
    """What a task is about, as the training set says."""

    classes: tuple[str, ...]
    """Names of what the targets count, in their order."""
    channels: int = 3
    bits: int = 8
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the task's `survey` found."""


Config = TypeVar("Config", bound=TaskConfig)


class Task(ABC, Generic[Config]):
    """One kind of question about images.

    settings: an instance of its `Settings`. Raises UserError: they do not fit the subject.
    """

    kind: ClassVar[str]
    """task.kind in the settings, and manifest["task"]["kind"]."""
    Settings: ClassVar[type[TaskConfig]]
    monitor: ClassVar[tuple[str, Literal["min", "max"]]]
    """What the best checkpoint is best at."""
    needs: ClassVar[Needs]
    """What of a sample the task learns from."""

    def __init__(self, settings: Config, subject: Subject) -> None:
        self.settings, self.subject = settings, subject

    @classmethod
    def survey(cls, settings: Config, targets: Iterable[Any]) -> dict[str, Any]:
        """Facts of the whole training set that the task needs, as plain values; they become `subject.facts`.

        targets: decoded one by one as they are asked for, which few tasks do; where `needs` is label, class numbers.
        """
        return {}

    @abstractmethod
    def head(self, encoder: SwinV2) -> nn.Module:
        """A new head, with its first weights; it is called on `features`."""

    @staticmethod
    def features(encoder: SwinV2, images_BCHW: Tensor) -> Any:
        """What the head reads: one vector per image, (B, C), unless a task wants the maps."""
        return encoder.pool(images_BCHW)

    @abstractmethod
    def views(self, size: Pair) -> tuple[View, View]:
        """Of training and of evaluation: (image, target, seed) -> both, images of this (height, width)."""

    def teach(self, batch: Batch) -> tuple[Any, ...]:
        """What the head takes beside the features in training, for one that computes its losses itself."""
        return ()

    def infer(self, network: nn.Module, images_BCHW: Tensor) -> Any:
        """The network's output in evaluation; images of a `native` view are a list of (C, H_i, W_i)."""
        return network(images_BCHW)

    def mix(self, images_BCHW: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Normalised training images on the device and their batch -> what the network sees, and a batch to match."""
        return images_BCHW, batch

    @abstractmethod
    def loss(self, output: Any, batch: Batch) -> Tensor:
        """Mean over the batch, () float32, of what the head gave."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Of validation, logged as val/NAME; each computes one number, or a dict of them, each logged as val/KEY."""

    def detailed_metrics(self) -> dict[str, Metric]:
        """What `update` counts too where they are there, and only `details` reads: for `evaluate`."""
        return {}

    def details(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Of `metrics` and `detailed_metrics`: "per_class", rows; "confusion", int (truth, predicted)."""
        return {}

    @abstractmethod
    def update(self, metrics: Mapping[str, Any], output: Any, batch: Batch) -> None:
        """Count a batch in `metrics`, without the samples that are not `valid`."""

    @abstractmethod
    def predict(self, output: Any, batch: Batch) -> Rows:
        """What the head gave, in words and numbers, image by image; of the batch only `image` and `size` are read."""

    def truth(self, batch: Batch) -> Rows:
        """What the targets say, with those keys of `predict` that they know."""
        return [{} for _ in batch["valid"]]

    def goodness(self, output: Any, batch: Batch) -> Tensor | None:
        """How well each image is answered, (B,), larger is better; for pictures of the worst."""
        return None

    def draw(self, image_HWC: NDArray[Any], row: Row) -> Image | None:
        """An answer, or the truth, over the image that it is about, uint8 (H, W, 3) in the size before the view; None:
        words under the image say it."""
        return None

    def legend(self) -> Image | None:
        """What the colours of `draw` mean, where they mean the same in every picture."""
        return None

    @abstractmethod
    def verdict(self, values: Mapping[str, float]) -> str:
        """One line for the end of the run, of the metrics logged last; empty where there are none."""

    def describe(self) -> dict[str, Any]:
        """manifest["task"]: what the outputs mean."""
        return {"kind": self.kind, "classes": list(self.subject.classes)}

    def recorded(self) -> dict[str, Any]:
        """`describe`, and all that `finetune.apply.trained` makes the same task of."""
        origin = {"settings": asdict(self.settings), "bits": self.subject.bits, "facts": dict(self.subject.facts)}
        return self.describe() | origin

    def evaluation(self) -> dict[str, Any]:
        """manifest["evaluation"]: what the view of evaluation does, see `swinmim.checkpoint.manifest.Evaluation`."""
        return {}
