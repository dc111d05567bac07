"""JPEG: what the header says, read without decoding, and the fast decoder."""

import re
import struct
from typing import NamedTuple

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from data.codecs.parsers import DecodeError, parsing

SOI = b"\xff\xd8"
# Start-of-frame markers: every SOFn except DHT (C4), JPG (C8) and DAC (CC), which share the range.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset((0x01, *range(0xD0, 0xD8)))  # markers without a length
_TOLD = frozenset(range(0xE1, 0xF0)) - {0xEE} | {0xFE}  # metadata, profiles, comments
_LATER = re.compile(rb"\xff[\xda\xe1]")  # the pixels, or EXIF before them
_MARK = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what is no pixel


class JpegHeader(NamedTuple):
    """height, width in pixels; components 1 (grey), 3 (colour) or 4 (CMYK); EXIF orientation 1..8, 0 if unclear."""

    height: int
    width: int
    components: int
    orientation: int


def jpeg_header(data: bytes) -> JpegHeader | None:
    """The header up to the start of the pixels; None when this is no JPEG or its header is unusual. Takes 8 us."""
    if data[:2] != SOI:
        return None
    orientation: int | None = None
    frame: JpegHeader | None = None
    exif = xmp = False
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
        if marker < 0xC0 or length < 2 or place + 2 + length > end:
            return None
        if marker in _FRAMES:
            if length < 8 or frame is not None:
                return None
            height, width = struct.unpack_from(">HH", data, body + 1)
            known = orientation if orientation is not None else 0 if xmp else 1
            frame = JpegHeader(height, width, data[body + 5], known)
            later = _LATER.search(data, body)
            if later is None or later[0] == b"\xff\xda":
                return frame
        elif marker == 0xDA:
            return None if frame is None else frame._replace(orientation=0)  # EXIF after the frame
        elif marker == 0xE1 and frame is None:
            if data[body : body + 6] == b"Exif\0\0":
                orientation = 0 if exif else _orientation(data[body + 6 : place + 2 + length])
                exif = True
            elif data.find(b"Orientation", body, place + 2 + length) >= 0:
                xmp = True
        place += 2 + length
    return None


def _orientation(exif: bytes) -> int | None:
    """Entry 0x0112 of the first directory of an EXIF block (a small TIFF); None when absent, 0 when unclear."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 0
    try:
        (place,) = struct.unpack_from(order + "I", exif, 4)
        (entries,) = struct.unpack_from(order + "H", exif, place)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(order + "HHIH", exif, place + 2 + 12 * entry)
            if tag == 0x0112:
                return int(value) if kind == 3 and count == 1 and 1 <= value <= 8 else 0
    except struct.error:
        return 0
    return None


def stripped_jpeg(data: bytes) -> bytes:
    """The same pixels without what says more than they do: APP1 to APP15 but for Adobe's, comments, all after the end.

    Args:
        data: a whole JPEG, upright and in sRGB.
    """
    parts, place = [], 0
    while mark := _MARK.search(data, place):
        start, marker = mark.start(), data[mark.start() + 1]
        parts.append(data[place:start])  # pixels
        alone = marker in _ALONE or marker in (0xD8, 0xD9)
        place = start + 2 + (0 if alone else int.from_bytes(data[start + 2 : start + 4], "big"))
        if marker not in _TOLD:
            parts.append(data[start:place])
        if marker == 0xD9:
            break
    return b"".join(parts)


def decode_jpeg(data: bytes, header: JpegHeader, channels: int) -> NDArray[np.uint8] | None:
    """Decode a JPEG with libjpeg-turbo, exact DCT and upsampling: the pixels are Pillow's. Not yet turned upright.

    Strict: damage that Pillow and most decoders paper over with grey or shifted blocks is refused.

    Args:
        data: the file.
        header: of it. Its size must have been checked: a claimed 65500 x 65500 would be allocated.
        channels: 3 for RGB, 1 for grey (the Y of colour files); files of CMYK stay as they are.

    Returns:
        uint8 (H, W, channels); None for a chroma subsampling that TurboJPEG does not know: Pillow decodes that, less
        strictly.

    Raises:
        DecodeError: damaged.
    """
    space = {1: "GRAY", 3: "RGB", 4: "CMYK"}[4 if header.components == 4 else channels]
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, colorspace=space, strict=True)
    except ValueError as error:
        if "subsampling" in str(error):
            return None
        raise DecodeError(f"damaged pixels ({error})") from error
    return pixels


def decoder_size(data: bytes) -> tuple[int, int]:
    """Height and width that the decoder will allocate; raises DecodeError for damage."""
    with parsing("damaged header"):
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    return int(height), int(width)
