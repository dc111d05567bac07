"""Bytes to pixels: JPEG through libjpeg-turbo, the rest, and the reference for all, through Pillow. One rule for all:

first frame, EXIF orientation applied, 16 bits scaled to 8, transparency laid over white, size checked in the header
before a pixel is decoded (a 2 KB file can claim gigabytes).
"""

import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.codecs.bands import BANDS_NAMES, FULL_RANGE, LIMIT_NAMES, Bits, Pixels, is_array, read_npy, to_bits
from data.codecs.bands import MAX_BYTES as MAX_BYTES
from data.codecs.deep import deep_values, raw_mode
from data.codecs.jpeg import SOI, JpegHeader, decode_jpeg, decoder_size, jpeg_header
from data.codecs.orientation import TURN, orientation, upright
from data.codecs.parsers import PARSER_ERRORS, parsing, quiet
from data.codecs.parsers import DecodeError as DecodeError
from data.codecs.png import check_png, is_png
from data.codecs.tiff import is_tiff, read_tiff, tiff_header

Decoder = Literal["turbo", "pil"]
"""turbo: libjpeg-turbo for JPEG, strict about damage; pil: Pillow for everything. Their pixels are the same."""

MAX_PIXELS = 100_000_000
MAX_SIDE = 65500  # the largest that JPEG can store
# No format that runs another program (EPS) or holds no pixels.
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000")


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raises DecodeError for an image that is too large to decode or to store."""
    if width * height > max_pixels:
        raise DecodeError(f"{width}x{height} exceeds max_pixels={max_pixels} {LIMIT_NAMES}")
    if max(width, height) > MAX_SIDE:
        raise DecodeError(f"{width}x{height} has a side above {MAX_SIDE} pixels, the limit of JPEG")


def read_header(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Open an image without decoding it.

    Raises:
        DecodeError: unknown format, damaged header (or any part of a PNG), or too large.
    """
    if not data:
        raise DecodeError("empty file")
    if is_tiff(data):
        tiff_header(data)
    try:
        with quiet():
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except PARSER_ERRORS as error:
        raise DecodeError(f"not an image ({type(error).__name__})") from error
    check_size(*image.size, max_pixels)
    if is_png(data):
        check_png(data)
    return image


def to_mode(image: Image.Image, mode: str = "RGB", value_range: tuple[int, int] = FULL_RANGE) -> Image.Image:
    """`flat`, and then to mode "RGB" or "L"."""
    if mode == "L" and image.format in ("JPEG", "MPO"):
        image.draft("L", None)  # the Y of the file, as libjpeg-turbo takes it
    flat_image = flat(image, value_range)
    return flat_image if flat_image.mode == mode else flat_image.convert(mode)


def flat(image: Image.Image, value_range: tuple[int, int] = FULL_RANGE) -> Image.Image:
    """Decode an opened image to upright 8 bits with its transparency laid over white, in its own colours.

    Args:
        image: as `read_header` returns it.
        value_range: of 16-bit values, see `bands.to_bits`.

    Returns:
        mode RGB, L or CMYK.

    Raises:
        DecodeError: damaged pixels, or values whose range is not known.
    """
    with parsing("damaged pixels"):
        pixels = _flat(image, value_range)
    turn = orientation(image)  # only now: the EXIF of a PNG may follow its pixels, and Pillow has turned TIFF itself
    return pixels if turn == 1 else pixels.transpose(TURN[turn])


def _flat(image: Image.Image, value_range: tuple[int, int]) -> Image.Image:
    if image.mode == "F":
        raise DecodeError("floating-point pixels have no known range; scale them to 8 or 16 bits")
    deep = ";16" in raw_mode(image)
    values = deep_values(image)
    if values is not None:
        return _flat_deep(values, image.info.get("transparency"), value_range)
    if deep and value_range != FULL_RANGE:
        raise DecodeError(f"a value range is known for 16-bit grey, RGB and RGBA, not for {image.mode} of this kind")
    image.load()
    grey = image.mode in ("1", "L", "LA")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.getchannel(0) if grey else image.convert("RGB")
    if image.mode in ("RGB", "L", "CMYK"):
        return image
    return image.convert("L" if grey else "RGB")


def _flat_deep(values_HWC: NDArray[np.int64], clear: object, value_range: tuple[int, int]) -> Image.Image:
    """To 8 bits. clear: the one colour that is transparent, if any."""
    # Pillow's own conversion saturates every value above 255.
    if values_HWC.min() < 0 or values_HWC.max() > 65535:
        raise DecodeError("32-bit pixels have no known range; scale them to 8 or 16 bits")
    pixels = to_bits(values_HWC[:, :, :3], 8, value_range)
    if clear is not None:
        pixels[(values_HWC == np.array(clear)).all(2)] = 255
    if values_HWC.shape[2] == 4:
        image = Image.fromarray(np.dstack([pixels, to_bits(values_HWC[:, :, 3:], 8)]))
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)


def decode(
    data: bytes, channels: int = 3, *, bits: Bits = 8, max_pixels: int = MAX_PIXELS, decoder: Decoder = "turbo"
) -> Pixels:
    """Decode an image file.

    Args:
        data: the file's bytes, in any accepted format whatever its name says.
        channels: 3 for RGB, 1 for grey, any other number for .npy and TIFF of that many bands.
        bits: 16 for .npy and TIFF of any number of channels, and for PNG of 16 bits.
        max_pixels: refuse larger images before decoding.
        decoder: see `Decoder`.

    Returns:
        uint8, or uint16 with `bits=16`, (H, W, channels).

    Raises:
        DecodeError: not an image, damaged, too large, or of another number of channels.
    """
    if channels not in (1, 3) or bits == 16:
        return read_bands(data, channels, max_pixels, bits=bits)
    if decoder == "turbo" and data[:2] == SOI:
        header = full_header(data, max_pixels)
        pixels = decode_jpeg(data, header, channels)
        if pixels is not None and header.components < 4:
            return upright(pixels, header.orientation)
    elif is_bands(data, max_pixels):
        return read_bands(data, channels, max_pixels)
    image = to_mode(read_header(data, max_pixels), "RGB" if channels == 3 else "L")
    return np.array(image) if channels == 3 else np.array(image)[:, :, None]


def full_header(data: bytes, max_pixels: int) -> JpegHeader:
    """The header of a JPEG of allowed size, as Pillow reads it where it is unusual; raises DecodeError."""
    header = jpeg_header(data)
    if header is not None:
        check_size(header.width, header.height, max_pixels)
        if header.orientation:
            return header
    image = read_header(data, max_pixels)
    size = decoder_size(data)
    if size != (image.height, image.width):
        raise DecodeError(f"damaged header ({image.width}x{image.height} or {size[1]}x{size[0]})")
    return JpegHeader(*size, len(image.getbands()), orientation(image))


def is_bands(data: bytes, max_pixels: int) -> bool:
    """Whether Pillow does not read this array or TIFF rightly, so that `read_bands` must."""
    if is_array(data):
        return True
    if not is_tiff(data):
        return False
    header = tiff_header(data)
    if header.planar and header.bits > 8:
        return True
    try:
        read_header(data, max_pixels)
    except DecodeError as error:
        return str(error).startswith("not an image")
    return False


def read_bands(
    data: bytes,
    channels: int,
    max_pixels: int = MAX_PIXELS,
    value_range: tuple[int, int] = FULL_RANGE,
    bits: Bits = 8,
) -> Pixels:
    """Decode .npy, TIFF or 16-bit PNG to uint8 or uint16 (H, W, channels).

    Args:
        data: the file: (H, W, C), (C, H, W) or, for one channel, (H, W) values of 8 or 16 bits.
        channels, max_pixels: see `bands.channel_axis`.
        value_range, bits: see `bands.to_bits`.

    Raises:
        DecodeError: damaged, too large, or of another shape or type.
        DataError: TIFF, and tifffile is not installed.
    """
    if not data:
        raise DecodeError("empty file")
    if is_array(data):
        values = read_npy(data, channels, max_pixels)
    elif is_tiff(data):
        values = read_tiff(data, channels, max_pixels)
    else:
        values = _read_deep_png(data, channels, max_pixels, bits)
    return to_bits(values, bits, value_range)


def _read_deep_png(data: bytes, channels: int, max_pixels: int, bits: int) -> NDArray[np.int64]:
    if channels not in (1, 3):
        raise DecodeError(f"images have 1 or 3 channels, the set wants {channels}: store .npy or TIFF {BANDS_NAMES}")
    if not is_png(data) or data[24:25] != b"\x10":
        raise DecodeError(f"this image has 8 bits, the set wants {bits}: store .npy, TIFF or 16-bit PNG")
    image = read_header(data, max_pixels)
    with parsing("damaged pixels"):
        values = deep_values(image)
    if values is None or values.shape[2] != channels or "transparency" in image.info:
        raise DecodeError(f"16-bit PNG of another kind than {channels} channel(s) without transparency")
    return upright(values, orientation(image))
