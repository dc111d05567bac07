"""Confusion matrices: where things stand, for few and for many classes."""

import numpy as np
import pytest

from finetune.drawing.confusion import confusion_picture


@pytest.mark.parametrize("number", [2, 20, 21, 60, 61, 1000])
def test_the_diagonal_is_dark_where_all_is_right(number):
    counts = np.diag(np.full(number, 7))
    drawn = confusion_picture(counts, [f"class {n}" for n in range(number)])
    pixels = np.asarray(drawn.crop((drawn.width - 6 - 1, drawn.height - 6 - 1, drawn.width - 6, drawn.height - 6)))
    assert tuple(pixels[0, 0]) == (0, 0, 255)
    assert max(drawn.size) < 1600
    empty = np.asarray(confusion_picture(np.zeros((number, number), int), ["a"] * number))
    assert not ((empty == (0, 0, 255)).all(2)).any()
