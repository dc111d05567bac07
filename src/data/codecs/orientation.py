"""EXIF orientation: which of the eight, and the turn."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.codecs.parsers import PARSER_ERRORS, quiet

ORIENTATION = 0x0112
TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_Kind = TypeVar("_Kind", bound=np.generic)


def orientation(image: Image.Image) -> int:
    """Orientation 1..8 of an opened image, from EXIF or else XMP; 1 when absent or unreadable."""
    try:
        with quiet():
            value = image.getexif().get(ORIENTATION, 1)
    except PARSER_ERRORS:
        return 1
    return int(value) if value in TURN else 1


def upright(pixels_HWC: NDArray[_Kind], orientation: int) -> NDArray[_Kind]:
    """Turn and mirror as EXIF orientation 1..8 says."""
    if orientation == 1:
        return pixels_HWC
    if orientation >= 5:
        pixels_HWC = pixels_HWC.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    return np.ascontiguousarray(pixels_HWC)
