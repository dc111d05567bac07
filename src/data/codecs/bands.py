"""Arrays of any number of bands (multispectral), scaled to 8 or 16 bits, and their .npy files, without pickle."""

import ast
import math
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.codecs.parsers import DecodeError

NPY_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 1024  # bytes; that of a (H, W, C) array takes 118
MAX_BYTES = 512 * 1024 * 1024  # of one file and of one array; nothing larger is read into memory
FULL_RANGE = (0, 65535)
BANDS_NAMES = "(bands are counted by model.in_chans, and by --channels of data.write)"
LIMIT_NAMES = "(data.max_pixels, or --max-pixels of data.write)"  # where max_pixels is set

Bits = Literal[8, 16]
Pixels = NDArray[np.uint8] | NDArray[np.uint16]


def peak(bits: int) -> int:
    """The value that stands for 1: 255 or 65535."""
    return (1 << bits) - 1


def to_bits(values: NDArray[Any], bits: Bits, value_range: tuple[int, int] = FULL_RANGE) -> Pixels:
    """16-bit values scaled so that `value_range` fills the given bits; what lies outside is cut.

    8-bit values fill their own range already, whatever `value_range` says.
    """
    if values.dtype == np.uint8:
        return np.asarray(values) if bits == 8 else values.astype(np.uint16) * np.uint16(257)
    low, high = value_range
    scaled = (np.clip(values.astype(np.int64), low, high) - low) * (2 * peak(bits)) // (high - low)
    halves = (scaled + 1) // 2
    return halves.astype(np.uint8) if bits == 8 else halves.astype(np.uint16)


def is_array(data: bytes) -> bool:
    """Whether this is an .npy file."""
    return data[:6] == NPY_MAGIC


def channel_axis(shape: tuple[int, ...], dtype: np.dtype[Any], channels: int, max_pixels: int) -> int:
    """The axis of the channels in (H, W, C), (C, H, W) or, for one channel, (H, W).

    Args:
        shape, dtype: as the header of a file states them.
        channels: how many there must be; the axis of this length, the last one first, is taken for them.
        max_pixels: the largest height x width.

    Raises:
        DecodeError: another shape or type, or too large; before anything is allocated.
    """
    if dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise DecodeError(f"{dtype} values have no known range; store uint8 or uint16")
    full = (*shape, 1) if len(shape) == 2 else shape
    if len(full) != 3 or channels not in (full[2], full[0]) or min(full) < 1:
        raise DecodeError(
            f"shape {shape} is not (height, width, {channels}) or ({channels}, height, width) {BANDS_NAMES}"
        )
    size = math.prod(full)
    if size // channels > max_pixels:
        raise DecodeError(f"{shape} exceeds max_pixels={max_pixels} {LIMIT_NAMES}")
    if size * dtype.itemsize > MAX_BYTES:
        raise DecodeError(f"{size * dtype.itemsize} bytes of {shape} exceed the limit of {MAX_BYTES} for one image")
    return 2 if full[2] == channels else 0


def last_axis(values: NDArray[Any], axis: int) -> NDArray[Any]:
    """(H, W, C) from an array whose channels are at `axis`."""
    values = values[:, :, None] if values.ndim == 2 else values
    # a copy: torch wants memory it may write to, in its own byte order
    return np.array(np.moveaxis(values, axis, 2), values.dtype.newbyteorder("="), order="C")


def read_npy(data: bytes, channels: int, max_pixels: int) -> NDArray[Any]:
    """The uint8 or uint16 values of an .npy file, (H, W, channels); raises DecodeError for any other."""
    shape, fortran, dtype, start = _npy_header(data)
    axis = channel_axis(shape, dtype, channels, max_pixels)
    need = math.prod(shape) * dtype.itemsize
    if len(data) - start < need:
        raise DecodeError(f"the file ends after {len(data) - start} of {need} bytes of values")
    values = np.frombuffer(data, dtype, math.prod(shape), start)
    return last_axis(values.reshape(shape, order="F" if fortran else "C"), axis)


def _npy_header(data: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, Fortran order, type, and where the values start. numpy's own reader fails in many ways on damage."""
    start = {b"\1\0": 10, b"\2\0": 12}.get(data[6:8])
    if start is None:
        raise DecodeError(f"npy version {'.'.join(map(str, data[6:8]))} is not read")
    end = start + int.from_bytes(data[8:start], "little")
    if not start < end <= min(len(data), start + _MAX_HEADER):
        raise DecodeError("damaged npy header (its length)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Python about what is no good Python
            header = ast.literal_eval(data[start:end].decode("ascii").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise DecodeError(f"damaged npy header ({type(error).__name__})") from error
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise DecodeError("damaged npy header (its keys)")
    shape, fortran, kind = header["shape"], header["fortran_order"], header["descr"]
    if not isinstance(shape, tuple) or not all(type(extent) is int for extent in shape) or type(fortran) is not bool:
        raise DecodeError("damaged npy header (its values)")
    if kind not in ("|u1", "<u1", ">u1", "<u2", ">u2"):
        raise DecodeError(f"{kind!r} values have no known range; store uint8 or uint16")
    return shape, fortran, np.dtype(kind), end


def npy_bytes(values: Pixels) -> bytes:
    """The .npy file of an array, the same bytes with any numpy on any machine."""
    stored = values.astype("<u2" if values.dtype == np.uint16 else "|u1", order="C")
    header = f"{{'descr': '{stored.dtype.str}', 'fortran_order': False, 'shape': {values.shape}, }}"
    return npy_head(header) + stored.tobytes()


def npy_head(header: str) -> bytes:
    # Written out by hand so that the bytes do not change with numpy's padding.
    padding = -(10 + len(header) + 1) % 64
    length = (len(header) + padding + 1).to_bytes(2, "little")
    return NPY_MAGIC + b"\1\0" + length + header.encode() + b" " * padding + b"\n"
