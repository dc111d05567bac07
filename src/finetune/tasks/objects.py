"""What is done with found objects: judged as the COCO tools do it, and drawn."""

from __future__ import annotations

import colorsys
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from torchmetrics import Metric

_MASK_OPACITY = 0.45
_HUE_STEP = 0.618034  # neighbours in the list of classes look unlike each other


def average_precision(*, masks: bool, classes: Sequence[str] = ()) -> Metric:
    """A metric over all images and ranks: `map` and `map50` of boxes, `mask_map` and `mask_map50` of masks; 0 where the
    set has no object. With `classes`, a list with these for each class, None for one that no object has.
    """
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    kinds: dict[Literal["bbox", "segm"], str] = {"bbox": "", "segm": "mask_"} if masks else {"bbox": ""}

    class AveragePrecision(MeanAveragePrecision):
        def compute(self) -> Any:
            log = logging.getLogger("faster_coco_eval")
            level = log.level
            log.setLevel(logging.WARNING)  # it tells each step, and a table
            try:
                found = super().compute()
            finally:
                log.setLevel(level)
            named = {theirs + "_" if masks else "": ours for theirs, ours in kinds.items()}
            if classes:
                return _each(found, classes, named)
            values = {}
            for theirs, ours in named.items():
                values[f"{ours}map"] = found[f"{theirs}map"].clamp(min=0)
                values[f"{ours}map50"] = found[f"{theirs}map_50"].clamp(min=0)
            return {name: value.to(torch.float32) for name, value in values.items()}

    return AveragePrecision(
        iou_type=tuple(kinds),
        backend="faster_coco_eval",
        extended_summary=bool(classes),
        # those of the tools; torchmetrics' own are rounded to float32, and a recall of exactly 0.7 is then below 0.7
        iou_thresholds=np.linspace(0.5, 0.95, 10).tolist(),
        rec_thresholds=np.linspace(0, 1, 101).tolist(),
    )


def _each(found: Mapping[str, Any], classes: Sequence[str], named: Mapping[str, str]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"class": name} for name in classes]
    place = {int(label): n for n, label in enumerate(found["classes"].reshape(-1).tolist())}
    for theirs, ours in named.items():
        precision = found.get(f"{theirs}precision")  # (thresholds, recalls, classes, areas, limits); -1 is none
        for label, row in enumerate(rows):
            known = None
            if precision is not None and label in place:
                known = precision[:, :, place[label], 0, -1]
            judged = known is not None and bool((known > -1).any())
            row[f"{ours}map"] = float(known.mean()) if known is not None and judged else None
            row[f"{ours}map50"] = float(known[0].mean()) if known is not None and judged else None
    return rows


def drawn(image_HWC: NDArray[Any], row: Mapping[str, Any], classes: Sequence[str], least: float) -> Image:
    """Boxes, and masks where there are some, with class and score, over the image; those below `least` are left out."""
    from PIL import Image, ImageDraw, ImageFont

    pixels = image_HWC.astype(np.float32)
    shown = [each for each in row["objects"] if each["score"] >= least]
    colours = [_colour(classes.index(each["class"])) for each in shown]
    for each, colour in zip(shown, colours, strict=True):
        if "mask" in each:
            inside = each["mask"]
            pixels[inside] = (1 - _MASK_OPACITY) * pixels[inside] + _MASK_OPACITY * np.array(colour)
    picture = Image.fromarray(pixels.round().astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    side = min(picture.size)
    font, thick = ImageFont.load_default(max(10, side // 25)), max(1, side // 150)
    for each, colour in reversed(list(zip(shown, colours, strict=True))):  # the surest on top
        x, y, w, h = each["bbox"]
        pen.rectangle((x, y, x + w, y + h), outline=colour, width=thick)
        text = f"{each['class']} {each['score']:.2f}"
        left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
        at = max(0, min(x, picture.width - right)), max(0, y - bottom - 1)
        pen.rectangle((at[0] + left - 1, at[1] + top - 1, at[0] + right + 1, at[1] + bottom + 1), fill=colour)
        pen.text(at, text, fill="black", font=font)
    return picture


def _colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number * _HUE_STEP % 1, 0.75, 1)
    return round(255 * red), round(255 * green), round(255 * blue)
