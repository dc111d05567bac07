"""Sheets of tiles: where things stand, how they are fitted, and which pixels are shown."""

import numpy as np
import pytest
from PIL import Image

from finetune.drawing.tiles import fitted, sheet, to_rgb


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_sheet_has_its_rows_and_columns(count):
    red = Image.new("RGB", (19, 19), "red")
    drawn = sheet(
        [([red, red], ["a caption that is long enough for a second line of it, surely"])] * count, columns=2, side=40
    )
    assert drawn.width == min(count, 2) * 86 + 6
    tall = sheet([([red], ["x"])] * 5, columns=2, side=40)
    assert tall.height == 3 * (40 + 13 + 6) + 6
    pixels = np.asarray(drawn)
    assert ((pixels == (255, 0, 0)).all(2)).sum() > count * 400


def test_captions_are_wrapped_one_by_one_and_cut():
    (white,) = [Image.new("RGB", (8, 8))]
    heights = [sheet([([white], texts)], columns=1, side=60).height for texts in (["a"], ["a", "b"], ["word " * 99])]
    assert [height - 60 - 2 * 6 for height in heights] == [13, 26, 52]


def test_a_legend_lies_below_and_is_whole():
    legend = Image.new("RGB", (300, 20), "lime")
    drawn = np.asarray(sheet([([Image.new("RGB", (8, 8))], ["a"])], columns=1, side=60, legend=legend))
    assert drawn.shape[:2] == (60 + 13 + 2 * 6 + 20 + 6, 312)
    assert ((drawn == (0, 255, 0)).all(2)).sum() == 300 * 20


@pytest.mark.parametrize(
    ("size", "expected"), [((3, 900), (1, 64)), ((64, 64), (64, 64)), ((33, 20), (33, 20)), ((9, 5), (63, 35))]
)
def test_whole_pixels_where_enlarged(size, expected):
    assert fitted(Image.new("RGB", size), 64).size == expected


def test_other_bands_and_bits_are_shown():
    deep = np.full((2, 2, 5), 65_535, np.uint16)
    assert to_rgb(deep).dtype == np.uint8
    assert to_rgb(deep).tolist() == np.full((2, 2, 3), 255).tolist()
    assert to_rgb(np.arange(8, dtype=np.uint8).reshape(1, 2, 4), (3, 0, 1)).tolist() == [[[3, 0, 1], [7, 4, 5]]]
    assert to_rgb(np.full((1, 1, 2), 7, np.uint8)).tolist() == [[[7, 7, 7]]]
