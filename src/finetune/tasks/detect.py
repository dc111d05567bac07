"""Objects: a box, a class and maybe a mask each. torchvision's Faster R-CNN or Mask R-CNN on a feature pyramid over the
encoder's maps; large-scale jitter on one canvas; mean average precision by the COCO tools.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from finetune.task import Row, Rows, Subject, Task, TaskConfig
from finetune.tasks.objects import average_precision, drawn
from swinmim.config import Positive, Share, schema
from swinmim.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor, nn
    from torchmetrics import Metric

    from data.codecs.targets import Boxes
    from data.loading.batch import Batch
    from data.loading.views import View
    from swinmim.models.swinv2 import SwinV2
    from swinmim.models.windows import Pair

Width = Annotated[int, Field(ge=1)]


@schema
class DetectConfig(TaskConfig):
    kind: Literal["detect"]
    masks: Literal["auto", "none"]
    """auto: Mask R-CNN where the set has masks. none: boxes alone."""
    jitter: tuple[Positive, Positive]
    """Training: least and largest size of the image, where 1 just fits the canvas."""
    flip: bool
    anchor_scale: Positive
    """Side of a map's anchors in its pixels: 8 gives sides of 32 to 512 pixels in a canvas of any size. Take less for a
    canvas of few hundred pixels."""
    fpn_channels: Width
    """Of all maps of the pyramid, and of the mask head."""
    box_channels: Width
    """Of the two layers that judge a box."""
    proposals: Width
    """Places in an image that are looked at twice."""
    sampled: Width
    """Training: places in an image that the second look learns from, at most a quarter of them objects."""
    least_score: Share
    """Answers below it are none."""
    most_objects: Width
    """In an image."""
    draw_score: Share
    """Answers below it are not in pictures."""

    def __post_init__(self) -> None:
        if self.jitter[0] > self.jitter[1]:
            raise ValueError(f"jitter is [least, most], got {list(self.jitter)}")


class Detect(Task[DetectConfig]):
    """Where which objects are. The head gives losses where it is taught, else for each image `boxes` (N, 4) as x1, y1,
    x2, y2 on the canvas, `labels` from 1 on, `scores`, and `masks` (N, 1, 28, 28) in their boxes.
    """

    kind = "detect"
    Settings = DetectConfig
    monitor = ("val/map", "max")
    needs = "boxes"

    def __init__(self, settings: DetectConfig, subject: Subject) -> None:
        super().__init__(settings, subject)
        self.masks = settings.masks == "auto" and bool(subject.facts.get("masks"))

    @classmethod
    def survey(cls, settings: DetectConfig, targets: Iterable[Boxes]) -> dict[str, Any]:
        """`masks`: whether the set has them, as its first image says."""
        first = next(iter(targets), None)
        return {"masks": first is not None and first.masks is not None}

    def head(self, encoder: SwinV2) -> nn.Module:
        from finetune.tasks.rcnn import RCNN

        return RCNN(encoder.architecture, len(self.subject.classes), self.settings, masks=self.masks)

    @staticmethod
    def features(encoder: SwinV2, images_BCHW: Tensor) -> list[Tensor]:
        """The maps of all stages, (B, H_s, W_s, C_s), the last one after the final norm."""
        maps = encoder.encode(encoder.embed(images_BCHW))
        return [*maps[:-1], encoder.norm(maps[-1])]

    def views(self, size: Pair) -> tuple[View, View]:
        from data.loading.views import Letterbox, ScaleJitter

        return ScaleJitter(size, self.settings.jitter, flip=self.settings.flip), Letterbox(size)

    def teach(self, batch: Batch) -> tuple[list[dict[str, Tensor]]]:
        """The objects as torchvision wants them, without crowds. Raises DataError: masks are missing here and there."""
        taught = []
        for seen in batch["target"]:
            told = ~seen["crowd"]
            taught.append({"boxes": seen["boxes"][told], "labels": seen["labels"][told] + 1})
            if self.masks:
                canvas: Any = batch["image"].shape[1:3]  # type: ignore[union-attr]
                taught[-1]["masks"] = _masks_of(seen, canvas)[told].byte()
        return (taught,)

    def loss(self, output: dict[str, Tensor], batch: Batch) -> Tensor:
        """The sum of the losses of proposals and answers, each a mean."""
        import torch

        return torch.stack([loss.float() for loss in output.values()]).sum()

    def metrics(self) -> dict[str, Metric]:
        """map, map50 of boxes, and mask_map, mask_map50 of masks; in the original images, as the COCO tools count."""
        if not find_spec("faster_coco_eval"):
            raise ConfigError("task=detect needs faster-coco-eval: pip install 'swinmim[detect]'.")
        return {"map": average_precision(masks=self.masks)}

    def detailed_metrics(self) -> dict[str, Metric]:
        return {"each": average_precision(masks=self.masks, classes=self.subject.classes)}

    def details(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        return {"per_class": metrics["each"].compute()} if "each" in metrics else {}

    def update(self, metrics: Mapping[str, Any], output: list[dict[str, Tensor]], batch: Batch) -> None:
        answers, truths = [], []
        placed, valid = self._placed(output, batch), batch["valid"].tolist()
        sizes = batch["size"].tolist()
        for found, seen, size, counts in zip(placed, batch["target"], sizes, valid, strict=True):
            # Ranks gather image by image: one that does not count is an empty one, not a missing one.
            kept = slice(None) if counts else slice(0)
            answers.append({key: value[kept] for key, value in found.items()})
            truth = {"boxes": seen["boxes"][kept], "labels": seen["labels"][kept]}
            if self.masks:
                truth["masks"] = _masks_of(seen, size)[kept]
            truths.append({**truth, "iscrowd": seen["crowd"][kept].int()})
        for metric in metrics.values():
            metric.update(answers, truths)

    def _placed(self, output: list[dict[str, Tensor]], batch: Batch) -> list[dict[str, Tensor]]:
        """Answers in the original images: boxes cut to them, labels from 0 on, masks bool (N, H, W)."""
        from torchvision.models.detection.roi_heads import paste_masks_in_image
        from torchvision.ops import clip_boxes_to_image, remove_small_boxes

        from data.loading.views import fitted

        canvas: Any = batch["image"].shape[1:3]  # type: ignore[union-attr]
        placed = []
        for found, (high, wide) in zip(output, batch["size"].tolist(), strict=True):
            shown_high, shown_wide = fitted((high, wide), tuple(canvas))
            scale = found["boxes"].new_tensor([wide / shown_wide, high / shown_high]).repeat(2)
            boxes = clip_boxes_to_image(found["boxes"].float() * scale, (high, wide))
            kept = remove_small_boxes(boxes, 1e-3)  # what lies in the padding
            answer = {"boxes": boxes[kept], "labels": found["labels"][kept] - 1, "scores": found["scores"][kept]}
            if self.masks:
                pasted = paste_masks_in_image(found["masks"][kept].float(), boxes[kept], (high, wide))
                answer["masks"] = pasted[:, 0] > 0.5
            placed.append(answer)
        return placed

    def predict(self, output: list[dict[str, Tensor]], batch: Batch) -> Rows:
        """The `objects`, surest first."""
        return [self._row(found) for found in self._placed(output, batch)]

    def truth(self, batch: Batch) -> Rows:
        """The `objects` that are marked, crowds left out, with score 1."""
        rows = []
        for seen in batch["target"]:
            marked = {key: value[~seen["crowd"]] for key, value in seen.items() if key != "crowd"}
            rows.append(self._row({**marked, "scores": marked["labels"].new_ones(len(marked["labels"])).float()}))
        return rows

    def _row(self, found: Mapping[str, Tensor]) -> Row:
        boxes = found["boxes"].clone()
        boxes[:, 2:] -= boxes[:, :2]
        columns = found["labels"].tolist(), found["scores"].tolist(), boxes.tolist()
        objects: list[dict[str, Any]] = [
            {"class": self.subject.classes[label], "score": score, "bbox": box}
            for label, score, box in zip(*columns, strict=True)
        ]
        if self.masks and "masks" in found:
            for each, mask in zip(objects, found["masks"].bool().cpu().numpy(), strict=True):
                each["mask"] = mask
        return {"objects": objects}

    def goodness(self, output: list[dict[str, Tensor]], batch: Batch) -> Tensor:
        """Score times overlap of the best answer to an object, as a mean over the objects; where there is none, 1 less
        the surest answer.
        """
        import torch
        from torchvision.ops import box_iou

        values = []
        for found, seen in zip(self._placed(output, batch), batch["target"], strict=True):
            told = ~seen["crowd"]
            if not told.any():
                values.append(1 - found["scores"].max() if len(found["scores"]) else torch.ones(()))
                continue
            same = seen["labels"][told][:, None] == found["labels"][None]
            overlap = box_iou(seen["boxes"][told], found["boxes"]) * same * found["scores"]
            values.append(overlap.amax(1).mean() if overlap.shape[1] else torch.zeros(()))
        return torch.stack([value.float().cpu() for value in values])

    def draw(self, image_HWC: NDArray[Any], row: Row) -> Image:
        return drawn(image_HWC, row, self.subject.classes, self.settings.draw_score)

    def verdict(self, values: Mapping[str, float]) -> str:
        if "val/map" not in values:
            return ""
        told = f"validation mAP {100 * values['val/map']:.2f} %, mAP50 {100 * values['val/map50']:.2f} %"
        return told + (f", masks {100 * values['val/mask_map']:.2f} %" if "val/mask_map" in values else "")

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"masks": self.masks}

    def evaluation(self) -> dict[str, Any]:
        # the whole picture; that its aspect is kept there is no word for
        return {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}


def _masks_of(seen: Mapping[str, Tensor], size: Sequence[int]) -> Tensor:
    """bool (N, H, W) of an image of this size; raises DataError where objects have none."""
    import torch

    if "masks" in seen:
        return seen["masks"]
    if len(seen["boxes"]):
        raise DataError("All images have masks or none; this set has both. Add task.masks=none.")
    return seen["labels"].new_zeros((0, *size), dtype=torch.bool)
