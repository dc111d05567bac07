"""Bytes to pixels, with Pillow as the reference decoder. One rule for every format:

first frame, EXIF orientation applied, 16 bits scaled to 8, transparency laid over white, size checked in the header
before a pixel is decoded (a 2 KB file can claim gigabytes).
"""

import io
import struct
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_PIXELS = 100_000_000
_ORIENTATION = 0x0112
# No format that runs another program (EPS) or holds no pixels.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What Pillow's parsers are known to raise on damaged files.
_PARSER_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError),
    *(struct.error, zlib.error),
)


class DecodeError(ValueError):
    """These bytes are not an image we accept. The message is a short reason."""


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image without decoding it.

    Raises:
        DecodeError: unknown format, damaged header, or more than `max_pixels` pixels.
    """
    if not data:
        raise DecodeError("empty file")
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # Pillow only warns up to twice its own limit; ours is checked below
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except _PARSER_ERRORS as error:
        raise DecodeError(f"not an image ({type(error).__name__})") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if image.width * image.height > max_pixels:
        raise DecodeError(f"{image.width}x{image.height} exceeds max_pixels={max_pixels}")
    return image


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 when absent or unreadable."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except _PARSER_ERRORS:
        return 1
    return value if value in _TURN else 1


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an opened image to upright 8-bit RGB.

    Raises:
        DecodeError: damaged pixels, or floating-point pixels, whose range is not known.
    """
    turn = orientation(image)
    try:
        image.load()
        image = _to_rgb_mode(image)
    except _PARSER_ERRORS as error:
        raise DecodeError(str(error) if isinstance(error, DecodeError) else f"damaged pixels ({error})") from error
    return image if turn == 1 else image.transpose(_TURN[turn])


def _to_rgb_mode(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise DecodeError("floating-point pixels have no known range; scale them to 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow's own conversion saturates every value above 255.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DecodeError("32-bit pixels have no known range; scale them to 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def decode(data: bytes, channels: int = 3, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode an image file.

    Args:
        data: the file's bytes, in any accepted format whatever its name says.
        channels: 3 for RGB, 1 for grey.
        max_pixels: refuse larger images before decoding.

    Returns:
        uint8 (H, W, channels).

    Raises:
        DecodeError: not an image, damaged, too large, or of another number of channels.
    """
    image = to_rgb(read_header(data, max_pixels))
    if channels == 1:
        return np.array(image.convert("L"))[:, :, None]
    if channels != 3:
        raise DecodeError(f"images have 1 or 3 channels, the set wants {channels}")
    return np.array(image)
