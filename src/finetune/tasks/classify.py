"""Image classification: one class per image, cross-entropy, mixup and cutmix. Recipe: configs of Swin and SimMIM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from finetune.task import Rows, Subject
from finetune.tasks.pooled import PooledConfig, PooledTask
from swinmim.config import NotNegative, schema

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

    from data.loading.batch import Batch


@schema
class ClassifyConfig(PooledConfig):
    kind: Literal["classify"]
    mixup: NotNegative
    """Alpha of mixup; 0 is off. With cutmix, each batch takes one of the two at random."""
    cutmix: NotNegative
    """Alpha of cutmix; 0 is off."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]


class Classify(PooledTask[ClassifyConfig]):
    """Which of the classes an image shows. The head gives logits (B, classes)."""

    kind = "classify"
    Settings = ClassifyConfig
    monitor = ("val/top1", "max")
    needs = "label"

    def __init__(self, settings: ClassifyConfig, subject: Subject) -> None:
        super().__init__(settings, subject)
        self.mixer = _mixer(settings, len(subject.classes))

    def mix(self, images_BCHW: Tensor, batch: Batch) -> tuple[Tensor, Batch]:
        """Erasing, then mixup or cutmix, one of them at random, after which the labels are soft, (B, classes)."""
        images_BCHW, batch = super().mix(images_BCHW, batch)
        if self.mixer is None:
            return images_BCHW, batch
        images_BCHW, label = self.mixer(images_BCHW, batch["label"])
        return images_BCHW, {**batch, "label": label}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        import torch
        import torch.nn.functional as F

        with torch.autocast(output.device.type, enabled=False):
            return F.cross_entropy(output.float(), batch["label"], label_smoothing=self.settings.label_smoothing)

    def metrics(self) -> dict[str, Metric]:
        """top1, top5 where there are more than five classes, and the loss without smoothing; over all samples alike."""
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
        classes = [self.subject.classes[index] for index in best.indices.tolist()]
        return [{"class": c, "probability": p} for c, p in zip(classes, best.values.tolist(), strict=True)]

    def verdict(self, values: Mapping[str, float]) -> str:
        return f"validation top-1 {100 * values['val/top1']:.2f} %" if "val/top1" in values else ""


def _mixer(settings: ClassifyConfig, num_classes: int) -> Any:
    if not settings.mixup and not settings.cutmix:
        return None
    from torchvision.transforms import v2

    kinds = (v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix)
    return v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0])
