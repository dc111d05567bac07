"""What tasks need that answer for each pixel: windows over large images, one exact count, and pictures."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor, nn
    from torchmetrics import Metric

_GOLDEN = 0.618034
_GREY = (0.35, 0.35, 0.35)
_OPAQUE = 0.55
_LINE, _CHARACTER = 18, 7  # pixels of a legend


def starts(side: int, window: int, overlap: float) -> list[int]:
    """Where windows begin that cover a side, evenly spread, each covering at least `overlap` of the one before."""
    if side <= window:
        return [0]
    count = 1 + math.ceil((side - window) / max(1, window * (1 - overlap)) - 1e-9)
    return [round(n * (side - window) / (count - 1)) for n in range(count)]


def windowed(network: nn.Module, images: Sequence[Tensor], overlap: float) -> list[Tensor]:
    """The likeliest class of each pixel, uint8 (H_i, W_i), of images (C, H_i, W_i) in their own size.

    Logits are averaged over the windows, which have the resolution of the network's encoder. As many windows go
    through it at a time as there are images. Images smaller than a window are filled up with the mean colour.
    """
    import torch
    import torch.nn.functional as F

    window = height, width = cast(Any, network).encoder.resolution
    at_a_time = len(images)
    plans = [_places((image_CHW.shape[1], image_CHW.shape[2]), window, overlap) for image_CHW in images]
    missing = _passes_of_others(network, sum(math.ceil(len(places) / at_a_time) for places in plans), images[0])
    found = []
    for image_CHW, places in zip(images, plans, strict=True):
        _, H, W = image_CHW.shape
        padded = F.pad(image_CHW, (0, max(0, width - W), 0, max(0, height - H)))
        total_KHW: Tensor | None = None
        count_HW = padded.new_zeros(padded.shape[1:], dtype=torch.float32)
        for first in range(0, len(places), at_a_time):
            some = places[first : first + at_a_time]
            crops = [padded[:, top : top + height, left : left + width] for top, left in some]
            logits_NKHW = network(torch.stack(crops)).float()
            if total_KHW is None:
                total_KHW = logits_NKHW.new_zeros(logits_NKHW.shape[1], *padded.shape[1:])
            for (top, left), logits_KHW in zip(some, logits_NKHW, strict=True):
                total_KHW[:, top : top + height, left : left + width] += logits_KHW
                count_HW[top : top + height, left : left + width] += 1
        assert total_KHW is not None  # there is a window
        found.append((total_KHW / count_HW)[:, :H, :W].argmax(0).byte())
    for _ in range(missing):
        network(images[0].new_zeros(1, images[0].shape[0], *window))
    return found


def _places(size: tuple[int, int], window: tuple[int, int], overlap: float) -> list[tuple[int, int]]:
    """Upper left corners of the windows over an image."""
    tops, lefts = (starts(max(side, to), to, overlap) for side, to in zip(size, window, strict=True))
    return [(top, left) for top in tops for left in lefts]


def _passes_of_others(network: nn.Module, passes: int, some: Tensor) -> int:
    """How many more passes another rank makes, where parameters lie on all ranks and each pass waits for all.

    Asked before the first pass: who is through and asks then would meet others that wait for its parameters.
    """
    if not any(hasattr(parameter, "ds_id") for parameter in network.parameters()):
        return 0
    import torch
    from torch import distributed

    most = torch.tensor(passes, device=some.device)
    distributed.all_reduce(most, distributed.ReduceOp.MAX)
    return int(most) - passes


def scores(matrix: NDArray[np.int64]) -> tuple[list[float | None], list[float | None]]:
    """Intersection over union, and recall, of each class of a matrix (truth, predicted); None for one without truth."""
    hits, truth, predicted = np.diagonal(matrix), matrix.sum(1), matrix.sum(0)
    union = truth + predicted - hits
    occurs = truth > 0
    return tuple(  # type: ignore[return-value]
        [float(h / n) if there else None for h, n, there in zip(hits, of, occurs, strict=True)] for of in (union, truth)
    )


def confusion_metric(classes: int) -> Metric:
    """Counts pixels of (predicted, truth), integers of one shape, without those that are 255 in truth."""
    import torch
    from torchmetrics import Metric

    class Confusion(Metric):
        """matrix: int64 (truth, predicted), summed over ranks, so that every pixel counts the same and once."""

        full_state_update = False
        matrix: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.add_state("matrix", default=torch.zeros(classes, classes, dtype=torch.int64), dist_reduce_fx="sum")

        def update(self, predicted: Tensor, truth: Tensor) -> None:
            known = truth < classes
            places = truth[known].long() * classes + predicted[known].long()
            self.matrix += torch.bincount(places, minlength=classes**2).view(classes, classes)

        def compute(self) -> dict[str, Tensor]:
            """miou: over the classes that some pixel has; classes: how many; all are 0 where no pixel has any."""
            matrix = self.matrix.double()
            hits, truth = matrix.diagonal(), matrix.sum(1)
            occurs = truth > 0
            iou = hits / (truth + matrix.sum(0) - hits).clamp(min=1)
            number = occurs.sum()
            return {
                "miou": (iou * occurs).sum() / number.clamp(min=1),
                "pixel_accuracy": hits.sum() / truth.sum().clamp(min=1),
                "classes": number.double(),
            }

    return Confusion()


def colours(classes: int) -> list[tuple[int, int, int]]:
    """One for each class: grey for the first, mostly a background, then hues that lie far apart, in three shades."""
    shades = (0.95, 0.65, 0.8)
    drawn = [colorsys.hsv_to_rgb(n * _GOLDEN % 1, 0.9 - 0.25 * (n // 3 % 2), shades[n % 3]) for n in range(1, classes)]
    return [(r, g, b) for r, g, b in ((round(255 * r), round(255 * g), round(255 * b)) for r, g, b in [_GREY, *drawn])]


def overlay(image_HWC: NDArray[Any], mask_HW: NDArray[np.uint8], classes: int) -> Image:
    """The classes over an image of the same size, uint8 (H, W, 3); pixels without a class as they are."""
    from PIL import Image

    known = mask_HW < classes
    palette = np.array(colours(classes), float)
    painted = image_HWC.astype(float)
    painted[known] = (1 - _OPAQUE) * painted[known] + _OPAQUE * palette[mask_HW[known]]
    return Image.fromarray(painted.round().astype(np.uint8))


def legend(classes: Sequence[str], width: int = 480) -> Image:
    """Each class beside its colour, in as many rows as it takes."""
    from PIL import Image, ImageDraw

    places, left, row = [], 0, 0
    for name in classes:
        needs = _LINE + _CHARACTER * (len(name) + 2)
        if left and left + needs > width:
            left, row = 0, row + 1
        places.append((left, row * _LINE))
        left += needs
    picture = Image.new("RGB", (width, (row + 1) * _LINE), "white")
    draw = ImageDraw.Draw(picture)
    for (x, y), name, colour in zip(places, classes, colours(len(classes)), strict=True):
        draw.rectangle((x + 2, y + 3, x + _LINE - 4, y + _LINE - 4), fill=colour)
        draw.text((x + _LINE, y + 3), name, fill="black")
    return picture
