"""Any number of labels per image: a sigmoid for each, binary cross-entropy, mean average precision."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from finetune.task import Rows, Subject
from finetune.tasks.pooled import PooledConfig, PooledTask
from swinmim.config import schema
from swinmim.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

    from data.loading.batch import Batch

log = logging.getLogger(__name__)

MAX_WEIGHT = 100.0
"""Positives of a label weigh at most this much, and at least one part of it."""


@schema
class MultilabelConfig(PooledConfig):
    kind: Literal["multilabel"]
    pos_weight: Literal["none", "auto"]
    """What an image with a label weighs against one without, label by label. auto: as the training set has images
    without over images with it, from 1/100 to 100, which takes one look at all its labels."""
    threshold: float
    """Probability above which a label counts as given, for F1 and predictions."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is a probability between 0 and 1, got {self.threshold}")


class Multilabel(PooledTask[MultilabelConfig]):
    """Which of the labels an image has. The head gives logits (B, labels), targets are bool (B, labels)."""

    kind = "multilabel"
    Settings = MultilabelConfig
    monitor = ("val/map", "max")
    needs = "labels"

    def __init__(self, settings: MultilabelConfig, subject: Subject) -> None:
        import torch

        super().__init__(settings, subject)
        if len(subject.classes) < 2:
            raise DataError(
                f"task=multilabel needs at least two labels, the set has {len(subject.classes)}. For one, give each "
                "image a class (with, without) and take task=classify."
            )
        weights = subject.facts.get("pos_weight")
        self.pos_weight = None if weights is None else torch.tensor(weights)

    @classmethod
    def survey(cls, settings: MultilabelConfig, targets: Iterable[NDArray[np.bool_]]) -> dict[str, Any]:
        """`pos_weight` per label, where it is auto; the log says in which range."""
        if settings.pos_weight == "none":
            return {}
        count, positives = 0, np.zeros(1)
        for target in targets:
            count, positives = count + 1, positives + target
        weights = (count - positives) / np.maximum(positives, 1)  # a label that no image has weighs nothing anywhere
        clamped = np.clip(weights, 1 / MAX_WEIGHT, MAX_WEIGHT)
        log.info(
            "task.pos_weight=auto: images with a label weigh %.3g to %.3g times those without (clamped: %d of %d)",
            clamped.min(),
            clamped.max(),
            int((clamped != weights).sum()),
            len(clamped),
        )
        return {"pos_weight": clamped.tolist()}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        import torch
        import torch.nn.functional as F

        if self.pos_weight is not None:
            self.pos_weight = self.pos_weight.to(output.device)
        with torch.autocast(output.device.type, enabled=False):
            return F.binary_cross_entropy_with_logits(output.float(), _targets(batch), pos_weight=self.pos_weight)

    def metrics(self) -> dict[str, Metric]:
        """Mean average precision, F1 over all decisions (micro) and labels (macro), and the loss without weights."""
        from torchmetrics import MeanMetric
        from torchmetrics.classification import MultilabelF1Score

        labels, threshold = len(self.subject.classes), self.settings.threshold
        return {
            "map": _average_precision(mean=True),
            "f1_micro": MultilabelF1Score(labels, threshold=threshold, average="micro"),
            "f1_macro": MultilabelF1Score(labels, threshold=threshold, average="macro"),
            "loss": MeanMetric(),
        }

    def update(self, metrics: Mapping[str, Any], output: Tensor, batch: Batch) -> None:
        import torch.nn.functional as F

        valid = batch["valid"]
        logits, target = output.float()[valid], _targets(batch)[valid]
        probability = logits.sigmoid()
        for name in ("map", "average_precision"):
            if name in metrics:
                metrics[name].update(probability, target)  # with no rows too: all ranks must hold something to gather
        if len(target):
            metrics["f1_micro"].update(probability, target.int())
            metrics["f1_macro"].update(probability, target.int())
            if "counts" in metrics:
                metrics["counts"].update(probability, target.int())
            metrics["loss"].update(F.binary_cross_entropy_with_logits(logits, target), weight=len(target))

    def predict(self, output: Tensor, batch: Batch) -> Rows:
        """The `labels` above the threshold, and the `probabilities` of all, in their order."""
        probability = output.float().sigmoid()
        given = (probability > self.settings.threshold).tolist()
        return [
            {
                "labels": [name for name, is_given in zip(self.subject.classes, row, strict=True) if is_given],
                "probabilities": values,
            }
            for row, values in zip(given, probability.tolist(), strict=True)
        ]

    def truth(self, batch: Batch) -> Rows:
        given = cast("Tensor", batch["target"]).bool().tolist()
        return [
            {"labels": [name for name, is_given in zip(self.subject.classes, row, strict=True) if is_given]}
            for row in given
        ]

    def goodness(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean over the labels of the log of the probability of what is true."""
        import torch.nn.functional as F

        return -F.binary_cross_entropy_with_logits(output.float(), _targets(batch), reduction="none").mean(1)

    def detailed_metrics(self) -> dict[str, Metric]:
        from torchmetrics.classification import MultilabelStatScores

        labels = len(self.subject.classes)
        return {
            "counts": MultilabelStatScores(labels, threshold=self.settings.threshold, average=None),
            "average_precision": _average_precision(mean=False),
        }

    def details(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Of each label its images, recall, precision and average precision; None where it has none."""
        counts = metrics["counts"].compute().cpu().tolist()  # rightly given, wrongly, rightly not, wrongly not, images
        areas, rows = metrics["average_precision"].compute().cpu().tolist(), []
        for name, (right, wrong, _, _, images), area in zip(self.subject.classes, counts, areas, strict=True):
            rows.append(
                {
                    "label": name,
                    "images": images,
                    "recall": right / images if images else None,
                    "precision": right / (right + wrong) if right + wrong else None,
                    "average_precision": area if images else None,
                }
            )
        return {"per_class": rows}

    def verdict(self, values: Mapping[str, float]) -> str:
        if "val/map" not in values:
            return ""
        return f"validation mAP {100 * values['val/map']:.2f} %, micro F1 {100 * values['val/f1_micro']:.2f} %"

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"threshold": self.settings.threshold}


def _targets(batch: Batch) -> Tensor:
    return cast("Tensor", batch["target"]).float()


def _average_precision(*, mean: bool) -> Metric:
    import torch
    from torchmetrics import Metric
    from torchmetrics.functional.classification import binary_average_precision
    from torchmetrics.utilities import dim_zero_cat

    class AveragePrecision(Metric):
        """The area under precision over recall of each label, NaN where no image has it; mean: of the labels that some
        image has, and 0 where none has any."""

        probability: list[Tensor]
        target: list[Tensor]

        def __init__(self) -> None:
            super().__init__()
            self.add_state("probability", default=[], dist_reduce_fx="cat")
            self.add_state("target", default=[], dist_reduce_fx="cat")

        def update(self, probability: Tensor, target: Tensor) -> None:
            self.probability.append(probability)
            self.target.append(target)

        def compute(self) -> Tensor:
            probability, target = dim_zero_cat(self.probability), dim_zero_cat(self.target)
            each = torch.full((target.shape[1],), torch.nan, device=target.device)
            for label in target.any(0).nonzero().flatten().tolist():
                each[label] = binary_average_precision(probability[:, label], target[:, label].int())
            return each[~each.isnan()].mean().nan_to_num() if mean else each

    return AveragePrecision()
