"""Image classification: one class per image, cross-entropy, mixup and cutmix. Recipe: configs of Swin and SimMIM."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from finetune.task import Rows, Subject
from finetune.tasks.pooled import PooledConfig, PooledTask
from swinmim.config import NotNegative, schema

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

    from data.loading.batch import Batch

log = logging.getLogger(__name__)

MAX_RATIO = 100.0
"""What an image counts at most, over what one of the most frequent class does."""


@schema
class ClassifyConfig(PooledConfig):
    kind: Literal["classify"]
    mixup: NotNegative
    """Alpha of mixup; 0 is off. With cutmix, each batch takes one of the two at random."""
    cutmix: NotNegative
    """Alpha of cutmix; 0 is off."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    class_weights: Literal["none", "auto"] = "none"
    """What an image counts in the loss. auto: as rare as its class is in the training set, 1 on average over the set,
    and for no class more than 100 times what it counts for the most frequent one."""


class Classify(PooledTask[ClassifyConfig]):
    """Which of the classes an image shows. The head gives logits (B, classes)."""

    kind = "classify"
    Settings = ClassifyConfig
    monitor = ("val/top1", "max")
    needs = "label"

    def __init__(self, settings: ClassifyConfig, subject: Subject) -> None:
        import torch

        super().__init__(settings, subject)
        self.mixer = _mixer(settings, len(subject.classes))
        weights = subject.facts.get("class_weights")
        missing = [] if weights is None else [max(weights)] * (len(subject.classes) - len(weights))  # at the end
        self.class_weights = None if weights is None else torch.tensor([*weights, *missing], dtype=torch.float32)

    @classmethod
    def survey(cls, settings: ClassifyConfig, targets: Iterable[int]) -> dict[str, Any]:
        """`class_weights`, where they are auto; the log says in which range. targets: the class of each image."""
        if settings.class_weights == "none":
            return {}
        counts = np.bincount(np.fromiter(targets, np.int64))
        weights = inverse_frequency(counts)
        log.info(
            "task.class_weights=auto: an image counts %.3g (the most frequent class, %d images) to %.3g (%d images)",
            *(weights.min(), counts.max(), weights.max(), counts[weights.argmax()]),
        )
        return {"class_weights": weights.tolist()}

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

        label, weight = batch["label"], self.class_weights
        if weight is not None:
            weight = self.class_weights = weight.to(output.device)
            if label.ndim == 1:  # torch would divide by the weights of the batch, and a rare class alone count as any
                label = F.one_hot(label, len(weight)).float()
        with torch.autocast(output.device.type, enabled=False):
            return F.cross_entropy(output.float(), label, weight, label_smoothing=self.settings.label_smoothing)

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
        """The likeliest `class` and its `probability`; `top`, both of each of the likeliest five."""
        names = self.subject.classes
        best = output.float().softmax(1).topk(min(5, len(names)), 1)
        rows: Rows = []
        for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            top = [{"class": names[index], "probability": value} for index, value in zip(indices, values, strict=True)]
            rows.append({**top[0], "top": top})
        return rows

    def truth(self, batch: Batch) -> Rows:
        return [{"class": self.subject.classes[label]} for label in batch["label"].tolist()]

    def goodness(self, output: Tensor, batch: Batch) -> Tensor:
        """Log of the probability of the true class."""
        import torch.nn.functional as F

        return -F.cross_entropy(output.float(), batch["label"], reduction="none")

    def detailed_metrics(self) -> dict[str, Metric]:
        from torchmetrics.classification import MulticlassConfusionMatrix

        return {"confusion": MulticlassConfusionMatrix(len(self.subject.classes))}

    def details(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Confusion (truth, predicted), and of each class its images, recall and precision; None where it has none."""
        confusion = metrics["confusion"].compute().cpu().numpy()
        rows = [
            {
                "class": name,
                "images": int(confusion[index].sum()),
                "recall": _share(confusion[index, index], confusion[index].sum()),
                "precision": _share(confusion[index, index], confusion[:, index].sum()),
            }
            for index, name in enumerate(self.subject.classes)
        ]
        return {"per_class": rows, "confusion": confusion}

    def verdict(self, values: Mapping[str, float]) -> str:
        return f"validation top-1 {100 * values['val/top1']:.2f} %" if "val/top1" in values else ""


def inverse_frequency(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights (K,) of classes with so many images (K,): the rarer the heavier, within `MAX_RATIO`.

    1 on average over the images. A class without images has the heaviest.
    """
    weights: NDArray[np.float64] = 1 / np.maximum(counts, counts.max() / MAX_RATIO)
    return weights * float(counts.sum() / (weights * counts).sum())


def _share(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _mixer(settings: ClassifyConfig, num_classes: int) -> Any:
    if not settings.mixup and not settings.cutmix:
        return None
    from torchvision.transforms import v2

    kinds = (v2.MixUp, settings.mixup), (v2.CutMix, settings.cutmix)
    return v2.RandomChoice([kind(alpha=alpha, num_classes=num_classes) for kind, alpha in kinds if alpha > 0])
