"""Sheets of tiles and confusion matrices: where things stand, for few and for many classes."""

import numpy as np
import pytest
from PIL import Image

from finetune.apply.pictures import confusion_picture, sheet


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_sheet_has_its_rows_and_columns(count):
    red = Image.new("RGB", (10, 20), "red")
    drawn = sheet(
        [([red, red], "a caption that is long enough for a second line of it, surely")] * count, columns=2, side=40
    )
    assert drawn.width == min(count, 2) * 86 + 6
    tall = sheet([([red], "x")] * 5, columns=2, side=40)
    assert tall.height == 3 * (40 + 13 + 6) + 6
    pixels = np.asarray(drawn)
    assert ((pixels == (255, 0, 0)).all(2)).sum() > count * 400


@pytest.mark.parametrize("number", [2, 20, 21, 60, 61, 1000])
def test_the_diagonal_is_dark_where_all_is_right(number):
    counts = np.diag(np.full(number, 7))
    drawn = confusion_picture(counts, [f"class {n}" for n in range(number)])
    pixels = np.asarray(drawn.crop((drawn.width - 6 - 1, drawn.height - 6 - 1, drawn.width - 6, drawn.height - 6)))
    assert tuple(pixels[0, 0]) == (0, 0, 255)
    assert max(drawn.size) < 1600
    empty = np.asarray(confusion_picture(np.zeros((number, number), int), ["a"] * number))
    assert not ((empty == (0, 0, 255)).all(2)).any()
