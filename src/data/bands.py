"""Images of any number of bands (multispectral): .npy and .tif to 8 or 16 bits (H, W, C), without pickle."""

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from swinmim.errors import DataError

NPY_MAGIC = b"\x93NUMPY"
TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
FULL_RANGE = (0, 65535)

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
    """Whether this is an .npy file, which only `decode_bands` reads."""
    return data[:6] == NPY_MAGIC


def is_tiff(data: bytes) -> bool:
    return data[:4] in TIFF_MAGICS


def decode_bands(
    data: bytes, channels: int, max_pixels: int, value_range: tuple[int, int] = FULL_RANGE, bits: Bits = 8
) -> Pixels:
    """Decode .npy or TIFF with (H, W, C), (C, H, W) or, for one channel, (H, W) values of 8 or 16 bits.

    Args:
        data: the file.
        channels: how many there must be; the axis of this length, the last one first, is taken for them.
        max_pixels: refuse larger images before they are decoded.
        value_range, bits: see `to_bits`.

    Returns:
        uint8 or uint16 (H, W, channels).

    Raises:
        ValueError: damaged, too large, or of another shape or type.
        DataError: TIFF, and tifffile is not installed.
    """
    values = _read_npy(data, channels, max_pixels) if is_array(data) else _read_tiff(data, channels, max_pixels)
    return to_bits(values, bits, value_range)


def _check(shape: tuple[int, ...], dtype: np.dtype[Any], channels: int, max_pixels: int) -> int:
    """The axis of the channels; raises before anything is allocated."""
    if dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise ValueError(f"{dtype} values have no known range; store uint8 or uint16")
    full = (*shape, 1) if len(shape) == 2 else shape
    if len(full) != 3 or channels not in (full[2], full[0]) or 0 in full:
        raise ValueError(f"shape {shape} is not (height, width, {channels}) or ({channels}, height, width)")
    axis = 2 if full[2] == channels else 0
    pixels = full[0] * full[1] * full[2] // channels
    if pixels > max_pixels:
        raise ValueError(f"{shape} exceeds max_pixels={max_pixels}")
    return axis


def _layout(values: NDArray[Any], axis: int) -> NDArray[Any]:
    values = values[:, :, None] if values.ndim == 2 else values
    # a copy: torch wants memory it may write to, in its own byte order
    return np.array(np.moveaxis(values, axis, 2), values.dtype.newbyteorder("="), order="C")


def _read_npy(data: bytes, channels: int, max_pixels: int) -> NDArray[Any]:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"npy version {version} is not read")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    axis = _check(shape, dtype, channels, max_pixels)
    need = int(np.prod(shape)) * dtype.itemsize
    if len(data) - file.tell() < need:
        raise ValueError(f"the file ends after {len(data) - file.tell()} of {need} bytes of values")
    values = np.frombuffer(data, dtype, int(np.prod(shape)), file.tell())
    return _layout(values.reshape(shape, order="F" if fortran else "C"), axis)


def _read_tiff(data: bytes, channels: int, max_pixels: int) -> NDArray[Any]:
    try:
        import tifffile  # an extra: three-channel sets do without
    except ImportError as error:
        raise DataError("TIFF files of many bands need tifffile: pip install 'swinmim[bands]'.") from error
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            series = file.series[0]
            axis = _check(series.shape, np.dtype(series.dtype), channels, max_pixels)
            return _layout(series.asarray(), axis)
    except (tifffile.TiffFileError, struct.error, zlib.error, IndexError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"damaged TIFF ({error})") from error


def npy_bytes(values: Pixels) -> bytes:
    """The .npy file of an array, the same bytes with any numpy on any machine."""
    stored = values.astype("<u2" if values.dtype == np.uint16 else "|u1", order="C")
    header = f"{{'descr': '{stored.dtype.str}', 'fortran_order': False, 'shape': {values.shape}, }}"
    return npy_head(header) + stored.tobytes()


def npy_head(header: str) -> bytes:
    # Written out by hand so that the bytes do not change with numpy's padding.
    padding = -(10 + len(header) + 1) % 64
    return (
        b"\x93NUMPY\x01\x00"
        + (len(header) + padding + 1).to_bytes(2, "little")
        + header.encode()
        + b" " * padding
        + b"\n"
    )
