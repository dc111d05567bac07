"""Pictures of what a model does: sheets of tiles with words under them, and confusion matrices."""

import textwrap
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from swinmim.outside import one_line

_LINE, _GAP, _LETTER = 13, 6, 6
_MOST_CLASSES, _MOST_CELLS = 60, 1200


def sheet(tiles: Sequence[tuple[Sequence[Image.Image], str]], *, columns: int, side: int = 160) -> Image.Image:
    """Tiles in rows: one or several pictures beside each other, each fitted into a square of `side`, and a caption."""
    wide = max(len(pictures) for pictures, _ in tiles) * side + _GAP
    captions = [textwrap.wrap(text, max(8, (wide - _GAP) // _LETTER))[:4] for _, text in tiles]
    high = side + _LINE * max(map(len, captions)) + _GAP
    rows = -(-len(tiles) // columns)
    drawn = Image.new("RGB", (min(columns, len(tiles)) * wide + _GAP, rows * high + _GAP), "white")
    draw = ImageDraw.Draw(drawn)
    for place, ((pictures, _), lines) in enumerate(zip(tiles, captions, strict=True)):
        top, left = place // columns * high + _GAP, place % columns * wide + _GAP
        for number, picture in enumerate(pictures):
            fitted = _fitted(picture, side - 2)
            offset = left + number * side + (side - fitted.width) // 2
            drawn.paste(fitted, (offset, top + (side - fitted.height) // 2))
        for number, line in enumerate(lines):
            draw.text((left, top + side + number * _LINE), line, fill="black")
    return drawn


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    factor = side / max(picture.size)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST)


def confusion_picture(counts_TP: NDArray[np.int64], classes: Sequence[str]) -> Image.Image:
    """A row for each true class, a column for each predicted one; darker is a larger share of the row. Numbers and
    names where there is room for them."""
    number = len(classes)
    named = number <= _MOST_CLASSES
    cell = max(30, 6 * len(str(counts_TP.max())) + 8) if number <= 20 else max(1, min(14, _MOST_CELLS // number))
    names = [one_line(name)[:24] for name in classes]
    left = (max(map(len, names)) * _LETTER + 2 * _GAP if named else _GAP) + _LINE
    top = left + _LINE
    drawn = Image.new("RGB", (left + number * cell + _GAP, top + number * cell + _GAP), "white")
    draw = ImageDraw.Draw(drawn)
    share = counts_TP / np.maximum(counts_TP.sum(1, keepdims=True), 1)
    for truth in range(number):
        for predicted in range(number):
            tint = round(255 * (1 - share[truth, predicted]))
            box = (left + predicted * cell, top + truth * cell)
            draw.rectangle((*box, box[0] + cell - 1, box[1] + cell - 1), fill=(tint, tint, 255))
            if number <= 20 and (count := int(counts_TP[truth, predicted])):
                draw.text((box[0] + 4, box[1] + cell // 2 - 6), str(count), fill="white" if tint < 128 else "black")
    if named:
        upright = Image.new("RGB", (number * cell, left - _LINE), "white")
        for place, name in enumerate(names):
            draw.text((_LINE + _GAP, top + place * cell + cell // 2 - 6), name, fill="black")
            word = Image.new("RGB", (left - _LINE, _LINE), "white")
            ImageDraw.Draw(word).text((0, 0), name, fill="black")
            upright.paste(word.rotate(90, expand=True), (place * cell + max(0, cell - _LINE) // 2, 0))
        drawn.paste(upright, (left, top - upright.height))
    draw.text((left, 0), f"predicted, of {int(counts_TP.sum()):,}", fill="black")
    word = Image.new("RGB", (5 * _LETTER, _LINE), "white")
    ImageDraw.Draw(word).text((0, 0), "truth", fill="black")
    drawn.paste(word.rotate(90, expand=True), (0, top))
    return drawn
