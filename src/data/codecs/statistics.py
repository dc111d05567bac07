"""Mean and deviation of pixels, summed exactly."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from data.codecs.bands import Bits, Pixels, peak

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Moments = tuple[int, Sequence[int], Sequence[int]]
"""Number of pixels, and per channel the sum and the sum of squares of their values."""


def statistics(found: Iterable[Moments], bits: Bits) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and standard deviation per channel, in 0..1 units, of all pixels together; None when there are none."""
    pixels, total, squares = summed(found)
    if not pixels:
        return None
    one = peak(bits)
    variances = (second / pixels - (first / pixels) ** 2 for first, second in zip(total, squares, strict=True))
    # A constant channel would divide by zero later.
    std = tuple(round(max(math.sqrt(max(variance, 0.0)) / one, 1 / one), 6) for variance in variances)
    return tuple(round(first / pixels / one, 6) for first in total), std


def summed(found: Iterable[Moments]) -> Moments:
    """The moments of all pixels together; (0, (), ()) when there are none."""
    held = [moments for moments in found if moments[0]]
    pixels, totals, squares = zip(*held, strict=True) if held else ((), (), ())
    return sum(pixels), tuple(map(sum, zip(*totals, strict=True))), tuple(map(sum, zip(*squares, strict=True)))


_VALUES = np.arange(256, dtype=np.int64)


def moments(pixels: Image.Image | Pixels) -> Moments:
    # Whole numbers: the same for any order of summing, so statistics do not depend on the number of writers.
    if isinstance(pixels, Image.Image):
        counts = np.array(pixels.histogram(), dtype=np.int64).reshape(-1, 256)
        number = pixels.width * pixels.height
    else:
        flat = pixels.reshape(-1, pixels.shape[-1])
        if flat.dtype == np.uint16:
            values = flat.astype(np.int64)  # 65535**2 times MAX_PIXELS fits
            return len(flat), tuple(values.sum(0).tolist()), tuple((values * values).sum(0).tolist())
        counts = np.stack([np.bincount(channel, minlength=256) for channel in flat.T])
        number = len(flat)
    return number, tuple((counts @ _VALUES).tolist()), tuple((counts @ _VALUES**2).tolist())
