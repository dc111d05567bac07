"""TIFF: the directories, walked with bounds before a parser sees them, and the reading of many bands by tifffile.

A few KB of TIFF can name pages in a loop, tiles of gigabytes, and streams that inflate without end.
"""

import io
import logging
import math
import struct
import zlib
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.codecs.bands import BANDS_NAMES, channel_axis, last_axis
from data.codecs.orientation import ORIENTATION, upright
from data.codecs.parsers import DecodeError, parsing
from swinmim.errors import DataError

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MAX_PAGES = 1000
_MAX_ENTRIES = 4096
_KINDS = {1: "B", 3: "H", 4: "I", 16: "Q"}
_PACKBITS = 32773
_DEFLATE = (8, 32946)
_SLACK = 1 << 16  # bytes by which a strip may be longer than its pixels


class TiffHeader(NamedTuple):
    """Of the first page: bits of the deepest channel, whether the channels lie apart, orientation 1..8, bands, size.

    pages: how many there are.
    """

    bits: int
    planar: bool
    orientation: int
    bands: int
    width: int
    height: int
    pages: int

    def __str__(self) -> str:
        pages, bands = ("s" if count != 1 else "" for count in (self.pages, self.bands))
        return f"a TIFF of {self.pages} page{pages} of {self.width}x{self.height} pixels with {self.bands} band{bands}"


def is_tiff(data: bytes) -> bool:
    return data[:4] in TIFF_MAGICS


def tiff_header(data: bytes) -> TiffHeader:
    """Walk the chain of pages; raises DecodeError where it loops or is too long or damaged, or tiles are too large."""
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    offset, number, size = ("Q", "Q", 20) if big else ("I", "H", 12)
    try:
        (place,) = struct.unpack_from(order + offset, data, 8 if big else 4)
        seen: set[int] = set()
        tags: dict[int, list[int]] = {}
        while place and (not seen or place < len(data)):
            if place in seen:
                raise DecodeError("damaged TIFF (its pages form a loop)")
            if len(seen) == _MAX_PAGES:
                raise DecodeError(f"a TIFF of more than {_MAX_PAGES} pages")
            seen.add(place)
            (entries,) = struct.unpack_from(order + number, data, min(place, len(data)))
            if entries > _MAX_ENTRIES:
                raise DecodeError(f"damaged TIFF ({entries} entries in a page)")
            start = place + struct.calcsize(order + number)
            if len(seen) == 1:
                tags = dict(_entry(data, order, big, start + size * entry) for entry in range(entries))
            (place,) = struct.unpack_from(order + offset, data, start + size * entries)
    except struct.error as error:
        raise DecodeError(f"damaged TIFF ({error})") from error
    width, height = tags.get(256, [0])[0], tags.get(257, [0])[0]
    tile = tags.get(322, [0])[0] * tags.get(323, [0])[0]
    if tile > max(4 * width * height, 1 << 20):
        raise DecodeError(f"damaged TIFF (tiles of {tile} pixels in {width}x{height})")
    turn = tags.get(ORIENTATION, [1])[0]
    return TiffHeader(
        bits=max(tags.get(258, [1])),
        planar=tags.get(284, [1])[0] == 2,
        orientation=turn if 1 <= turn <= 8 else 1,
        bands=tags.get(277, [1])[0],
        width=width,
        height=height,
        pages=len(seen),
    )


def _entry(data: bytes, order: str, big: bool, place: int) -> tuple[int, list[int]]:
    """Tag and values of a directory entry; of long or other than whole values only a zero."""
    tag, kind, count = struct.unpack_from(order + ("HHQ" if big else "HHI"), data, place)
    if kind not in _KINDS or not 1 <= count <= 1000:
        return tag, [0]
    form = f"{order}{count}{_KINDS[kind]}"
    place += 12 if big else 8
    if struct.calcsize(form) > (8 if big else 4):
        (place,) = struct.unpack_from(order + ("Q" if big else "I"), data, place)
    return tag, list(struct.unpack_from(form, data, min(place, len(data))))


def read_tiff(data: bytes, channels: int, max_pixels: int) -> NDArray[Any]:
    """The values of the first series of pages, upright, (H, W, channels), white being the largest.

    Raises:
        DecodeError: damaged, too large, or of another shape, type or compression.
        DataError: tifffile is not installed.
    """
    header = tiff_header(data)
    try:
        import tifffile  # an extra: three-channel sets do without
    except ImportError as error:
        raise DataError("TIFF files of many bands need tifffile: pip install 'swinmim[bands]'.") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says about damage
    with parsing("damaged TIFF"), tifffile.TiffFile(io.BytesIO(data)) as file:
        series = file.series[0]
        channel_axis(series.shape, np.dtype(series.dtype), channels, max_pixels)
        axis = _bands_axis(series, channels)
        for page in series.pages:
            _check_segments(data, page, series.keyframe)
        values = last_axis(series.asarray(maxworkers=1), axis)
        white_is_zero = series.keyframe.photometric == 0
    return upright(np.iinfo(values.dtype).max - values if white_is_zero else values, header.orientation)


def _bands_axis(series: Any, channels: int) -> int:
    """Which axis of a series of pages, one of them as long as there are channels, counts these; raises DecodeError."""
    shape, axes = series.shape, series.axes
    if len(shape) == 2:
        return 2
    named = next((place for place, name in enumerate(axes) if name in "SC"), None)
    if named is not None:
        axis = named
    elif shape[0] == channels:
        axis = 0  # a page a band
    elif series.kind == "shaped":
        axis = 2  # tifffile was given (height, width, channels), wrote a page a row, and says so
    else:
        raise DecodeError(f"{shape[0]} pages of {shape[2]}x{shape[1]} pixels are not {channels} bands of one picture")
    if shape[axis] != channels:
        raise DecodeError(f"it has {shape[axis]} bands, the set wants {channels} {BANDS_NAMES}")
    return axis


def _check_segments(data: bytes, page: Any, keyframe: Any) -> None:
    """Raises DecodeError where strips or tiles are missing (read as 0) or unpack to more than their pixels."""
    kind = int(keyframe.compression)
    if kind not in (1, _PACKBITS, *_DEFLATE):
        name = getattr(keyframe.compression, "name", kind)
        raise DecodeError(f"TIFF compression {name} is not read; store it uncompressed, with deflate or with PackBits")
    if page is None:
        return
    if page.is_contiguous:
        if page.dataoffsets[0] + page.nbytes > len(data):
            raise DecodeError("damaged TIFF (it ends before its pixels do)")
        return
    if not len(page.dataoffsets) == len(page.databytecounts) == math.prod(keyframe.chunked):
        raise DecodeError(f"damaged TIFF ({len(page.dataoffsets)} strips of {math.prod(keyframe.chunked)})")
    if kind == 1:
        return
    limit = 2 * math.prod(keyframe.chunks) * np.dtype(keyframe.dtype).itemsize + _SLACK
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        packed = data[offset : offset + count]
        unpacked = _unpacked_bits(packed, limit) if kind == _PACKBITS else _inflated(packed, limit)
        if unpacked > limit:
            raise DecodeError("damaged TIFF (a strip unpacks to far more than its pixels)")


def _inflated(packed: bytes, limit: int) -> int:
    return len(zlib.decompressobj().decompress(packed, limit + 1))


def _unpacked_bits(packed: bytes, limit: int) -> int:
    place = unpacked = 0
    while place < len(packed) and unpacked <= limit:
        head = packed[place]
        place += head + 2 if head < 128 else 1 if head == 128 else 2
        unpacked += head + 1 if head < 128 else 0 if head == 128 else 257 - head
    return unpacked
