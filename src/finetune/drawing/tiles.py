"""Images side by side on a sheet, with words under them."""

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data.codecs.bands import Pixels, peak

LINE, GAP, LETTER = 13, 6, 6
"""Pixels: a line of text, what stands between things, the width of a letter."""


def sheet(
    tiles: Sequence[tuple[Sequence[Image.Image], Sequence[str]]],
    *,
    columns: int,
    side: int = 160,
    legend: Image.Image | None = None,
) -> Image.Image:
    """Tiles in rows: one or several pictures beside each other, each fitted into a square of `side`, and under them
    captions, each wrapped and cut after four lines; below all the legend."""
    wide = max(len(pictures) for pictures, _ in tiles) * side + GAP
    captions = [_wrapped(texts, max(8, (wide - GAP) // LETTER)) for _, texts in tiles]
    high = side + LINE * max(map(len, captions)) + GAP
    rows = -(-len(tiles) // columns)
    width, height = min(columns, len(tiles)) * wide + GAP, rows * high + GAP
    if legend is not None:
        width, height = max(width, legend.width + 2 * GAP), height + legend.height + GAP
    drawn = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(drawn)
    for place, ((pictures, _), lines) in enumerate(zip(tiles, captions, strict=True)):
        top, left = place // columns * high + GAP, place % columns * wide + GAP
        for number, picture in enumerate(pictures):
            shown = fitted(picture, side - 2)
            offset = left + number * side + (side - shown.width) // 2
            drawn.paste(shown, (offset, top + (side - shown.height) // 2))
        for number, line in enumerate(lines):
            draw.text((left, top + side + number * LINE), line, fill="black")
    if legend is not None:
        drawn.paste(legend, (GAP, rows * high + GAP))
    return drawn


def _wrapped(texts: Sequence[str], letters: int) -> list[str]:
    return [line for text in texts for line in textwrap.wrap(text, letters, max_lines=4, placeholder=" ...")]


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """Shrunk into a square of `side` pixels, or enlarged by whole pixels."""
    longest = max(picture.size)
    if longest > side:
        width, height = (max(1, round(length * side / longest)) for length in picture.size)
        return picture.resize((width, height), Image.Resampling.LANCZOS)
    times = side // longest
    return picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def to_rgb(pixels_HWC: Pixels, bands: tuple[int, int, int] | None = None) -> NDArray[np.uint8]:
    """uint8 (H, W, 3) of an image of 8 or 16 bits: these channels, else the first three, or the first one as grey."""
    chosen = bands or ((0, 1, 2) if pixels_HWC.shape[2] >= 3 else (0, 0, 0))
    bits = 8 * pixels_HWC.dtype.itemsize
    return np.ascontiguousarray((pixels_HWC[..., chosen] // (peak(bits) // peak(8))).astype(np.uint8))
