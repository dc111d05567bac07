"""One class per clip: frames through the encoder one by one, then a small transformer over time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from finetune.task import Rows, Task, TaskConfig
from swinmim.config import Area, Count, schema
from swinmim.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torchmetrics import Metric

    from data.loading.batch import Batch
    from data.loading.views import View
    from swinmim.models.swinv2 import SwinV2
    from swinmim.models.windows import Pair


@schema
class VideoConfig(TaskConfig):
    kind: Literal["video"]
    frames: Count
    """Of a clip that are looked at together."""
    stride: Count
    """Every how many frames one of them is taken; less where the clip is too short."""
    clips: Count
    """Evaluation: so many times `frames`, evenly spread over each clip; their logits are averaged."""
    short: Literal["repeat", "refuse"]
    """A clip with fewer frames. repeat: its last frame is repeated; refuse: it counts as damaged."""
    layers: Annotated[int, Field(ge=0)]
    """Of the transformer over time; 0 averages the frames, and knows nothing of their order."""
    width: Count
    """Of that transformer."""
    crop_scale: tuple[Area, Area]
    """Share of the frames' area that a random crop keeps, the same in all of a clip."""
    flip: bool
    """Mirror half of the clips, which turns the direction of what moves."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    crop_ratio: float
    """Evaluation: what is kept of the shorter side around the centre."""

    def __post_init__(self) -> None:
        if self.crop_scale[0] > self.crop_scale[1]:
            raise ValueError(f"crop_scale is [least, most], got {list(self.crop_scale)}")
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must lie in (0, 1], got {self.crop_ratio}")
        if self.width > 64 and self.width % (self.width // 64):
            raise ValueError(f"width is divided among width // 64 heads; {self.width} is not. Take a multiple of 64.")


class Video(Task[VideoConfig]):
    """Which of the classes a clip shows. Images are (B, T, C, H, W), the head gives logits (B, classes)."""

    kind = "video"
    Settings = VideoConfig
    monitor = ("val/top1", "max")
    needs = "clip"

    def head(self, encoder: SwinV2) -> nn.Module:
        from finetune.heads.clips import TimeHead

        settings = self.settings
        classes = len(self.subject.classes)
        return TimeHead(encoder.num_features, classes, settings.frames, settings.width, settings.layers)

    @staticmethod
    def features(encoder: SwinV2, images_BTCHW: Tensor) -> Tensor:
        """A vector for each frame, (B, T, C)."""
        return encoder.pool(images_BTCHW.flatten(0, 1)).reshape(*images_BTCHW.shape[:2], encoder.num_features)

    def views(self, size: Pair) -> tuple[View, View]:
        """Raises ConfigError: clips cannot be decoded here, or the encoder takes no colour."""
        from data.loading.views import CenterCrop, RandomCrop
        from finetune.heads.clips import FramesView, require_decoder

        if self.subject.channels != 3:
            raise ConfigError(f"Clips have 3 channels, the encoder takes {self.subject.channels}.")
        require_decoder()
        settings = self.settings
        training = RandomCrop(size, settings.crop_scale, interpolation="bicubic", flip=settings.flip)
        evaluation = CenterCrop(size, settings.crop_ratio)
        frames, stride, short = settings.frames, settings.stride, settings.short
        return (
            FramesView(training, size, frames, stride, short=short),
            FramesView(evaluation, size, frames, stride, clips=settings.clips, short=short),
        )

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        import torch
        import torch.nn.functional as F

        with torch.autocast(output.device.type, enabled=False):
            return F.cross_entropy(output.float(), batch["label"], label_smoothing=self.settings.label_smoothing)

    def metrics(self) -> dict[str, Metric]:
        """top1, top5 where there are more than five classes, and the loss without smoothing; over all clips alike."""
        from torchmetrics import MeanMetric
        from torchmetrics.classification import MulticlassAccuracy

        num_classes = len(self.subject.classes)
        metrics: dict[str, Metric] = {"top1": MulticlassAccuracy(num_classes, average="micro")}
        if num_classes > 5:
            metrics["top5"] = MulticlassAccuracy(num_classes, top_k=5, average="micro")
        return metrics | {"loss": MeanMetric()}

    def update(self, metrics: Mapping[str, Any], output: Tensor, batch: Batch) -> None:
        import torch.nn.functional as F

        logits, label = output.float()[batch["valid"]], batch["label"][batch["valid"]]
        if len(label):
            for name, metric in metrics.items():
                if name != "loss":
                    metric.update(logits, label)
            metrics["loss"].update(F.cross_entropy(logits, label), weight=len(label))

    def predict(self, output: Tensor, batch: Batch) -> Rows:
        """The likeliest `class` and its `probability`."""
        best = output.float().softmax(1).max(1)
        return [
            {"class": self.subject.classes[index], "probability": probability}
            for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def truth(self, batch: Batch) -> Rows:
        return [{"class": self.subject.classes[index]} if index >= 0 else {} for index in batch["label"].tolist()]

    def goodness(self, output: Tensor, batch: Batch) -> Tensor:
        """The logarithm of the probability of the true class."""
        return output.float().log_softmax(1).gather(1, batch["label"].clamp(min=0)[:, None])[:, 0]

    def verdict(self, values: Mapping[str, float]) -> str:
        return f"validation top-1 {100 * values['val/top1']:.2f} %" if "val/top1" in values else ""

    def evaluation(self) -> dict[str, Any]:
        return {"crop_pct": self.settings.crop_ratio, "crop_mode": "center"}
