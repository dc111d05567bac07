"""Semantic segmentation: a class for each pixel. UPerNet (arXiv 1807.10221) or SegFormer's decoder (2105.15203) on all
maps of the encoder, cross-entropy and Dice, mean intersection over union.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from finetune.task import Row, Rows, Subject, Task, TaskConfig
from finetune.tasks.pixels import confusion_metric, legend, overlay, scores, windowed
from swinmim.config import NotNegative, Positive, Share, schema
from swinmim.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from torchmetrics import Metric

    from data.loading.batch import Batch
    from data.loading.views import View
    from swinmim.models.swinv2 import SwinV2
    from swinmim.models.windows import Pair

log = logging.getLogger(__name__)

IGNORED = 255
MAX_WEIGHT = 10.0
"""A class weighs at most this much, and at least one part of it."""
_LOOKED_AT = 2000  # masks


@schema
class SegmentConfig(TaskConfig):
    kind: Literal["segment"]
    decoder: Literal["upernet", "segformer"]
    width: Annotated[int, Field(ge=16, multiple_of=8)]
    """Channels of the decoder."""
    scale: tuple[Positive, Positive]
    """Training: least and largest scale, drawn at random before the crop; 1 is the size that is evaluated."""
    flip: bool
    jitter: Share
    """Probability of each change of brightness, contrast, saturation and hue; 0 is off."""
    max_share: Annotated[float, Field(gt=0, le=1)]
    """Of a training crop that one class may cover before another crop is tried."""
    class_weights: Literal["none", "auto"]
    """auto: median frequency over frequency of a class where it occurs (arXiv 1411.4734), from 1/10 to 10, which takes
    one look at all masks."""
    dice: NotNegative
    """Weight of the Dice loss beside cross-entropy."""
    evaluation: Literal["slide", "whole"]
    """slide: windows of the resolution over the image in its own size; whole: the image bent into the resolution."""
    overlap: Annotated[float, Field(ge=0, lt=1)]
    """Share of a window that the next one covers again; slide only."""

    def __post_init__(self) -> None:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale is [least, largest], got {list(self.scale)}")
        if importlib.util.find_spec("segmentation_models_pytorch") is None:
            raise ValueError("task=segment needs segmentation-models-pytorch: pip install 'swinmim[segment]'")


class Segment(Task[SegmentConfig]):
    """Which class each pixel shows. The head gives logits (B, classes, H, W); targets are uint8, 255 counts nowhere."""

    kind = "segment"
    Settings = SegmentConfig
    monitor = ("val/miou", "max")
    needs = "mask"

    def __init__(self, settings: SegmentConfig, subject: Subject) -> None:
        import torch

        super().__init__(settings, subject)
        if len(subject.classes) < 2:
            raise DataError(
                f"task=segment needs at least two classes, the set has {len(subject.classes)}. A background is one too:"
                " give it a value of its own in the masks."
            )
        pixels, around = (np.array(subject.facts.get(name, [])) for name in ("pixels", "around"))
        names, masks = subject.classes, subject.facts.get("masks", 0)
        if empty := [name for name, count in zip(names, pixels, strict=False) if not count]:
            log.warning(
                "no pixel of %s in %d training masks: such classes are never learnt, and do not count in val/miou where"
                " validation has none either. Drop them from classes.txt, or add images that show them.",
                ", ".join(empty),
                masks,
            )
        self.class_weights = None
        if settings.class_weights == "auto" and masks:
            weights = class_weights(pixels, around)[: len(names)]
            log.info("task.class_weights=auto: classes weigh %.3g to %.3g", weights.min(), weights.max())
            self.class_weights = torch.tensor(weights, dtype=torch.float32)

    @classmethod
    def survey(cls, settings: SegmentConfig, targets: Iterable[NDArray[np.uint8]]) -> dict[str, Any]:
        """`masks`, how many were looked at; `pixels` of each class; `around`, all of the masks where it occurs.

        Without class weights some masks are enough, to say which classes do not occur.
        """
        pixels, around, masks = np.zeros(IGNORED, int), np.zeros(IGNORED, int), 0
        for mask in targets if settings.class_weights == "auto" else itertools.islice(targets, _LOOKED_AT):
            counts = np.bincount(mask.ravel(), minlength=IGNORED + 1)[:IGNORED]
            pixels, around, masks = pixels + counts, around + (counts > 0) * counts.sum(), masks + 1
        return {"masks": masks, "pixels": pixels.tolist(), "around": around.tolist()}

    def head(self, encoder: SwinV2) -> nn.Module:
        from finetune.tasks.decoders import Decoder

        return Decoder(self.settings.decoder, encoder.architecture, self.settings.width, len(self.subject.classes))

    @staticmethod
    def features(encoder: SwinV2, images_BCHW: Tensor) -> list[Tensor]:
        """A map of each stage, (B, C_s, H_s, W_s), the last one after the encoder's norm as in pretraining."""
        *maps, last = encoder.encode(encoder.embed(images_BCHW))
        return [map_BHWC.permute(0, 3, 1, 2) for map_BHWC in (*maps, encoder.norm(last))]

    def views(self, size: Pair) -> tuple[View, View]:
        """Raises ConfigError for jitter of images that it does not know."""
        from data.loading.dense import ScaledCrop, Whole

        settings, subject = self.settings, self.subject
        if settings.jitter and not (subject.channels in (1, 3) and subject.bits == 8):
            raise ConfigError(
                f"Jitter knows 1 or 3 channels of 8 bits, got {subject.channels} of {subject.bits}. Add task.jitter=0."
            )
        whole = settings.evaluation == "whole"
        training = ScaledCrop(
            size,
            settings.scale,
            fit=whole,
            flip=settings.flip,
            jitter=settings.jitter,
            max_share=settings.max_share,
        )
        return training, Whole(size if whole else None)

    def infer(self, network: nn.Module, images_BCHW: Any) -> Any:
        """slide: a list of classes, uint8 (H_i, W_i); whole: logits as in training."""
        if isinstance(images_BCHW, list):
            return windowed(network, images_BCHW, self.settings.overlap)
        return network(images_BCHW)

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        """Mean over the pixels that have a class, 0 where none has."""
        import torch
        import torch.nn.functional as F
        from segmentation_models_pytorch.losses import DiceLoss

        target_BHW = cast("Tensor", batch["target"]).long()
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(output.device)
        with torch.autocast(output.device.type, enabled=False):
            logits = output.float()
            total = F.cross_entropy(
                logits, target_BHW, weight=self.class_weights, ignore_index=IGNORED, reduction="sum"
            )
            known = target_BHW[target_BHW != IGNORED]
            weight = known.new_tensor(len(known)) if self.class_weights is None else self.class_weights[known].sum()
            loss = total / weight.clamp(min=1e-6)
            if self.settings.dice:
                loss = loss + self.settings.dice * DiceLoss("multiclass", ignore_index=IGNORED)(logits, target_BHW)
            return loss

    def metrics(self) -> dict[str, Metric]:
        """miou over the classes that occur, pixel_accuracy, and how many classes occur; from one matrix."""
        return {"miou": confusion_metric(len(self.subject.classes))}

    def update(self, metrics: Mapping[str, Any], output: Any, batch: Batch) -> None:
        rows = zip(self._classes(output, batch), batch["target"], batch["valid"].tolist(), strict=True)
        for predicted, truth, valid in rows:
            if valid:
                metrics["miou"].update(predicted, truth)

    def _classes(self, output: Any, batch: Batch) -> list[Tensor]:
        """uint8 (H_i, W_i) in the size of each image."""
        if isinstance(output, list):
            return output
        from torch.nn.functional import interpolate

        sizes = batch["size"].tolist()
        logits = (
            interpolate(row[None].float(), size, mode="bilinear") for row, size in zip(output, sizes, strict=True)
        )
        return [row[0].argmax(0).byte() for row in logits]

    def details(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        metric = metrics["miou"]
        with metric.sync_context():
            matrix = metric.matrix.cpu().numpy()
        iou, recall = scores(matrix)
        rows = [
            {"class": name, "iou": iou[n], "recall": recall[n], "pixels": int(matrix[n].sum())}
            for n, name in enumerate(self.subject.classes)
        ]
        return {"per_class": rows, "confusion": matrix}

    def predict(self, output: Any, batch: Batch) -> Rows:
        """The `mask`, and the `classes` in it, the largest first."""
        return [self._row(mask.cpu().numpy()) for mask in self._classes(output, batch)]

    def truth(self, batch: Batch) -> Rows:
        return [self._row(mask.cpu().numpy()) for mask in batch["target"]]

    def _row(self, mask_HW: NDArray[np.uint8]) -> Row:
        counts = np.bincount(mask_HW.ravel(), minlength=IGNORED + 1)[: len(self.subject.classes)]
        held = [n for n in np.argsort(-counts, kind="stable").tolist() if counts[n]]
        return {"classes": [self.subject.classes[n] for n in held], "mask": mask_HW}

    def goodness(self, output: Any, batch: Batch) -> Tensor:
        """Mean intersection over union of each image, over the classes in its truth."""
        import torch

        values = []
        for predicted, truth in zip(self._classes(output, batch), batch["target"], strict=True):
            metric = confusion_metric(len(self.subject.classes)).to(truth.device)
            metric.update(predicted, truth)
            values.append(metric.compute()["miou"])
        return torch.stack(values)

    def draw(self, image_HWC: NDArray[Any], row: Row) -> Image:
        return overlay(image_HWC, row["mask"], len(self.subject.classes))

    def legend(self) -> Image:
        return legend(self.subject.classes)

    def verdict(self, values: Mapping[str, float]) -> str:
        if "val/miou" not in values:
            return ""
        counted, classes = round(values["val/classes"]), len(self.subject.classes)
        missing = f" over the {counted} of {classes} classes that occur" if counted < classes else ""
        return (
            f"validation mIoU {100 * values['val/miou']:.2f} %{missing},"
            f" pixel accuracy {100 * values['val/pixel_accuracy']:.2f} %"
        )

    def evaluation(self) -> dict[str, Any]:
        return {"crop_pct": 1.0, "crop_mode": "squash"} if self.settings.evaluation == "whole" else {}


def class_weights(pixels: NDArray[np.int_], around: NDArray[np.int_]) -> NDArray[np.float64]:
    """Median frequency over frequency, both of a class in the images that show it; 1 for one that none shows."""
    frequency = pixels / np.maximum(around, 1)
    weights = np.ones(len(pixels))
    seen = pixels > 0
    weights[seen] = (np.median(frequency[seen]) / frequency[seen]).clip(1 / MAX_WEIGHT, MAX_WEIGHT)
    return weights
