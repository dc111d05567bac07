"""Bytes to pixels: JPEG through libjpeg-turbo, the rest, and the reference for all, through Pillow. One rule for all:

first frame, EXIF orientation applied, 16 bits scaled to 8, transparency laid over white, size checked in the header
before a pixel is decoded (a 2 KB file can claim gigabytes).
"""

import io
import struct
import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.bands import FULL_RANGE, Bits, Pixels, decode_bands, is_array, is_tiff, to_bits
from data.jpeg import JpegHeader, decode_jpeg, jpeg_header

Decoder = Literal["turbo", "pil"]
"""turbo: libjpeg-turbo for JPEG, strict about damage; pil: Pillow for everything. Their pixels are the same."""

MAX_PIXELS = 100_000_000
MAX_BYTES = 512 * 1024 * 1024  # of one file; nothing larger is read into memory
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


def upright(pixels_HWC: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
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


def to_mode(image: Image.Image, mode: str = "RGB", value_range: tuple[int, int] = FULL_RANGE) -> Image.Image:
    """Decode an opened image to upright 8 bits.

    Args:
        image: as `read_header` returns it.
        mode: "RGB" or "L".
        value_range: of 16-bit values, see `bands.to_bits`.

    Raises:
        DecodeError: damaged pixels, or floating-point pixels, whose range is not known.
    """
    turn = orientation(image)
    try:
        image.load()
        image = _convert(image, value_range)
        image = image if image.mode == mode else image.convert(mode)
    except _PARSER_ERRORS as error:
        raise DecodeError(str(error) if isinstance(error, DecodeError) else f"damaged pixels ({error})") from error
    return image if turn == 1 else image.transpose(_TURN[turn])


def _convert(image: Image.Image, value_range: tuple[int, int]) -> Image.Image:
    """To 8 bits without transparency, in any mode that converts to RGB and L without further rules."""
    if image.mode in ("RGB", "L") and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise DecodeError("floating-point pixels have no known range; scale them to 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow's own conversion saturates every value above 255.
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise DecodeError("32-bit pixels have no known range; scale them to 8 or 16 bits")
        return Image.fromarray(to_bits(values, 8, value_range))
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def decode(
    data: bytes, channels: int = 3, *, bits: Bits = 8, max_pixels: int = MAX_PIXELS, decoder: Decoder = "turbo"
) -> Pixels:
    """Decode an image file.

    Args:
        data: the file's bytes, in any accepted format whatever its name says.
        channels: 3 for RGB, 1 for grey, any other number for .npy and TIFF of that many bands.
        bits: 16 for .npy and TIFF only, whatever the channels.
        max_pixels: refuse larger images before decoding.
        decoder: see `Decoder`.

    Returns:
        uint8, or uint16 with `bits=16`, (H, W, channels).

    Raises:
        DecodeError: not an image, damaged, too large, or of another number of channels.
    """
    if is_array(data) or channels not in (1, 3) or bits == 16:
        return read_bands(data, channels, max_pixels, bits=bits)
    header = jpeg_header(data) if decoder == "turbo" else None
    if header is not None and header.components in (1, 3):
        return upright(decode_strictly(data, header, channels, max_pixels), header.orientation)
    pixels = np.array(to_mode(read_header(data, max_pixels), "RGB" if channels == 3 else "L"))
    return pixels if channels == 3 else pixels[:, :, None]


def decode_strictly(data: bytes, header: JpegHeader, channels: int, max_pixels: int) -> NDArray[np.uint8]:
    """Decode a JPEG whose header was read, not yet turned upright; raises DecodeError for any damage."""
    if header.height * header.width > max_pixels:
        raise DecodeError(f"{header.width}x{header.height} exceeds max_pixels={max_pixels}")
    try:
        return decode_jpeg(data, channels)
    except ValueError as error:
        raise DecodeError(f"damaged pixels ({error})") from error


def read_bands(
    data: bytes,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    value_range: tuple[int, int] = FULL_RANGE,
    bits: Bits = 8,
) -> Pixels:
    """`bands.decode_bands` with DecodeError for whatever is wrong with the file."""
    if not data:
        raise DecodeError("empty file")
    if not is_array(data) and not is_tiff(data):
        wanted = f"16 bits of {channels} channel(s)" if bits == 16 else f"{channels} channels"
        raise DecodeError(f"images have 8 bits of 1 or 3 channels, the set wants {wanted}: store .npy or TIFF")
    try:
        return decode_bands(data, channels, max_pixels, value_range, bits)
    except ValueError as error:
        raise DecodeError(str(error)) from error
