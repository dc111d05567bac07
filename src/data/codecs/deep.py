"""Pictures of more than 8 bits through Pillow, which has no 16-bit colour."""

import io
import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

_PHOTOMETRIC = 262
# Pillow keeps the high byte of each value. Read in the other byte order, it keeps the low one.
_OTHER = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}


def raw_mode(image: Image.Image) -> str:
    """Pillow's name for how the values of an opened image lie in the file."""
    for tile in getattr(image, "tile", ()):
        return str(tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else "")
    return ""


def deep_values(image: Image.Image) -> NDArray[np.int64] | None:
    """Decode a grey, RGB or RGBA image of more than 8 bits.

    Args:
        image: opened from an `io.BytesIO`, not loaded.

    Returns:
        (H, W, 1), (H, W, 3) or (H, W, 4), exact; None for images of 8 bits and of other kinds.
    """
    raw = raw_mode(image)
    if image.mode.startswith("I"):
        image.load()
        values = np.asarray(image).astype(np.int64)[:, :, None]
        white_is_zero = image.mode != "I" and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
        return 65535 - values if white_is_zero else values
    kind, _, order = raw.partition(";16")
    if kind not in ("RGB", "RGBA", "RGBX") or order not in _OTHER:
        return None
    assert isinstance(image, ImageFile.ImageFile)
    assert isinstance(image.fp, io.BytesIO)
    twin = Image.open(io.BytesIO(image.fp.getvalue()), formats=[str(image.format)])
    assert isinstance(twin, ImageFile.ImageFile)
    other = f"{kind};16{_OTHER[order]}"
    twin.tile = [
        tile._replace(args=other if isinstance(tile.args, str) else (other, *(tile.args or ())[1:]))
        for tile in twin.tile
    ]
    image.load()
    twin.load()
    low: NDArray[np.int64] = np.asarray(twin).astype(np.int64)
    return np.asarray(image).astype(np.int64) * 256 + low
