"""A confusion matrix as a picture."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from finetune.drawing.tiles import GAP, LETTER, LINE
from swinmim.outside import one_line

_MOST_CLASSES, _MOST_CELLS = 60, 1200


def confusion_picture(counts_TP: NDArray[np.int64], classes: Sequence[str]) -> Image.Image:
    """A row for each true class, a column for each predicted one; darker is a larger share of the row. Numbers and
    names where there is room for them."""
    number = len(classes)
    named = number <= _MOST_CLASSES
    cell = max(30, 6 * len(str(counts_TP.max())) + 8) if number <= 20 else max(1, min(14, _MOST_CELLS // number))
    names = [one_line(name)[:24] for name in classes]
    left = (max(map(len, names)) * LETTER + 2 * GAP if named else GAP) + LINE
    top = left + LINE
    drawn = Image.new("RGB", (left + number * cell + GAP, top + number * cell + GAP), "white")
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
        upright = Image.new("RGB", (number * cell, left - LINE), "white")
        for place, name in enumerate(names):
            draw.text((LINE + GAP, top + place * cell + cell // 2 - 6), name, fill="black")
            word = Image.new("RGB", (left - LINE, LINE), "white")
            ImageDraw.Draw(word).text((0, 0), name, fill="black")
            upright.paste(word.rotate(90, expand=True), (place * cell + max(0, cell - LINE) // 2, 0))
        drawn.paste(upright, (left, top - upright.height))
    draw.text((left, 0), f"predicted, of {int(counts_TP.sum()):,}", fill="black")
    word = Image.new("RGB", (5 * LETTER, LINE), "white")
    ImageDraw.Draw(word).text((0, 0), "truth", fill="black")
    drawn.paste(word.rotate(90, expand=True), (0, top))
    return drawn
