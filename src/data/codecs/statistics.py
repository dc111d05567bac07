"""Mean and deviation of pixels, summed exactly."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image

from data.codecs.bands import Bits, Pixels, peak


def statistics(
    pixels: int, total: Sequence[int], squares: Sequence[int], bits: Bits = 8
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in 0..1 units, from sums over pixel values of so many bits."""
    one = peak(bits)
    mean, std = [], []
    for first, second in zip(total, squares, strict=True):
        variance = second / pixels - (first / pixels) ** 2
        mean.append(round(first / pixels / one, 6))
        # A constant channel would divide by zero later.
        std.append(round(max(math.sqrt(max(variance, 0.0)) / one, 1 / one), 6))
    return mean, std


def measure(images: Iterable[Pixels], channels: int, bits: Bits = 8) -> tuple[list[float], list[float]] | None:
    """`statistics` of these images; None when there are none."""
    pixels, total, squares = 0, [0] * channels, [0] * channels
    for image in images:
        count, first, second = moments(image)
        pixels += count
        total = [a + b for a, b in zip(total, first, strict=True)]
        squares = [a + b for a, b in zip(squares, second, strict=True)]
    return statistics(pixels, total, squares, bits) if pixels else None


_VALUES = np.arange(256, dtype=np.int64)


def moments(pixels: Image.Image | Pixels) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Number of pixels, and per channel the sum and the sum of squares of their values."""
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
