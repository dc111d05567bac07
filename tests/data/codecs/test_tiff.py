"""TIFF: what tifffile and Pillow read, read within bounds."""

import io
import lzma
import struct
import sys
import time
import tracemalloc
import zlib

import numpy as np
import pytest
import tifffile
from made_images import image_bytes, make_pixels
from PIL import Image, ImageOps

from data.codecs.bands import to_bits
from data.codecs.decode import DecodeError, decode
from data.codecs.encode import EncodeOptions, encode
from swinmim.errors import DataError

BANDS = np.random.default_rng(0).integers(0, 65536, (40, 48, 5), dtype=np.uint16)
COLOUR = np.ascontiguousarray(BANDS[:, :, :3])
CONTIG = {"photometric": "minisblack", "planarconfig": "contig"}
APART = {"photometric": "minisblack", "planarconfig": "separate"}


def tiff(values, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, values, **options)
    return out.getvalue()


def made_tiff(payload, compression, width=64, height=48, channels=5, **tags):
    """One strip or tile (tile=side) of 8-bit values, packed already."""
    tile = tags.pop("tile", None)
    entries = {256: (4, [width]), 257: (4, [height]), 258: (3, [8] * channels), 259: (3, [compression])}
    entries |= {262: (3, [1]), 277: (3, [channels])} | {int(tag[1:]): value for tag, value in tags.items()}
    place = 8 + 2 + 12 * (len(entries) + (3 if tile is None else 4)) + 4
    start = place + 2 * channels
    if tile is None:
        entries |= {273: (4, [start]), 278: (4, [height]), 279: (4, [len(payload)])}
    else:
        entries |= {322: (4, [tile]), 323: (4, [tile]), 324: (4, [start]), 325: (4, [len(payload)])}
    table = struct.pack("<H", len(entries))
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'I'}", *values)
        table += struct.pack("<HHI", tag, kind, len(values))
        table += packed.ljust(4, b"\0") if len(packed) <= 4 else struct.pack("<I", place)
    return b"II*\0\x08\0\0\0" + table + bytes(4) + struct.pack(f"<{channels}H", *[8] * channels) + payload


def looped(data, order="<", big=False):
    """The last page leads back to the first."""
    data = bytearray(data)
    first = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    (entries,) = struct.unpack_from(order + ("Q" if big else "H"), data, first)
    struct.pack_into(
        order + ("Q" if big else "I"), data, first + (8 + 20 * entries if big else 2 + 12 * entries), first
    )
    return bytes(data)


def zeros(size):
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()


def packbits(data):
    return b"".join(bytes([len(part) - 1]) + part for part in (data[n : n + 100] for n in range(0, len(data), 100)))


@pytest.mark.parametrize(
    "data",
    [
        tiff(BANDS, **CONTIG),
        tiff(BANDS, **CONTIG, compression="zlib", rowsperstrip=7),
        tiff(BANDS, **CONTIG, compression="zlib", predictor=True),
        tiff(BANDS, **CONTIG, compression="zlib", predictor=True, byteorder=">"),
        tiff(BANDS, **CONTIG, tile=(16, 16)),
        tiff(BANDS, **CONTIG, tile=(32, 32), compression="zlib", predictor=True),
        tiff(BANDS, **CONTIG, bigtiff=True, byteorder=">"),
        tiff(BANDS, **CONTIG, bigtiff=True, compression="zlib"),
        tiff(np.moveaxis(BANDS, 2, 0), **APART),
        tiff(np.moveaxis(BANDS, 2, 0), **APART, tile=(16, 16), compression="zlib"),
        tiff(np.moveaxis(BANDS, 2, 0), photometric="minisblack", compression="zlib"),  # a page a band
        tiff(np.moveaxis(BANDS, 2, 0), imagej=True),
        tiff(np.moveaxis(BANDS, 2, 0), ome=True, metadata={"axes": "CYX"}),
    ],
)
def test_bands_are_those_of_tifffile(data):
    values = tifffile.imread(io.BytesIO(data))
    expected = values if values.shape == BANDS.shape else np.moveaxis(values, 0, 2)
    np.testing.assert_array_equal(expected, BANDS)
    np.testing.assert_array_equal(decode(data, 5, bits=16), expected)
    np.testing.assert_array_equal(decode(encode(data, EncodeOptions(channels=5)).data, 5), to_bits(expected, 8))


def test_packbits():
    values = (BANDS >> 8).astype(np.uint8)
    data = made_tiff(packbits(values.tobytes()), 32773, 48, 40)
    np.testing.assert_array_equal(decode(data, 5), values)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (looped(tiff(BANDS, **CONTIG)), "form a loop"),
        (looped(tiff(BANDS, **CONTIG, byteorder=">"), ">"), "form a loop"),
        (looped(tiff(BANDS, **CONTIG, bigtiff=True), big=True), "form a loop"),
        (looped(tiff(BANDS, **CONTIG, bigtiff=True, byteorder=">"), ">", big=True), "form a loop"),
        (tiff(np.zeros((1001, 8, 8), np.uint8), photometric="minisblack", metadata=None), "more than 1000 pages"),
        (made_tiff(zeros(64 << 20), 8), "far more than its pixels"),
        (made_tiff(b"\x81\0" * 500_000, 32773), "far more than its pixels"),
        (made_tiff(lzma.compress(bytes(9)), 34925), "compression LZMA is not read; store it"),
        (made_tiff(b"\x80\0", 5), "compression LZW is not read; store it uncompressed"),
        (made_tiff(bytes(1000), 1, tile=65536), "tiles of 4294967296 pixels in 64x48"),
        (made_tiff(zeros(1 << 20), 8, tile=65536), "tiles of 4294967296 pixels in 64x48"),
        (made_tiff(bytes(9), 1, 9999, 9999), "ends before its pixels"),
        (made_tiff(bytes(9), 1, 60000, 60000), "exceeds max_pixels"),
        (made_tiff(zlib.compress(bytes(64 * 48 * 5))[:-5], 8), "damaged TIFF"),
        (made_tiff(bytes(16 * 16 * 5), 1, tile=16), "1 strips of 12"),
        (tiff(BANDS, **CONTIG, compression="zlib", rowsperstrip=7)[:-99], "damaged TIFF"),
        (b"II*\0\xff\xff\xff\xff", "damaged TIFF"),
        (b"MM\0+\0\x08\0\0" + b"\xff" * 8, "damaged TIFF"),
        (b"II*\0\x08\0\0\0\xff\xff", "damaged TIFF"),
    ],
)
def test_hostile_files_are_refused_in_no_time_and_space(data, reason):
    tracemalloc.start()
    start = time.process_time()
    try:
        for read in (lambda: decode(data, 5), lambda: encode(data, EncodeOptions(channels=5))):
            with pytest.raises(DecodeError, match=reason):
                read()
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < 3


def test_a_thousand_channels_do_not_take_all_memory():
    with pytest.raises(DecodeError, match=r"99980001000 bytes .* exceed the limit"):
        decode(made_tiff(bytes(9), 1, 9999, 9999, 1000), 1000)


def test_loops_and_huge_tiles_are_refused_for_pictures_too():
    with pytest.raises(DecodeError, match="form a loop"):
        decode(looped(image_bytes(make_pixels(0), "TIFF")))
    with pytest.raises(DecodeError, match="tiles of"):
        decode(made_tiff(bytes(1000), 1, channels=3, tile=65536, t262=(3, [2])))


@pytest.mark.parametrize("value_range", [(0, 65535), (1000, 5095)])
@pytest.mark.parametrize(
    "data",
    [
        tiff(COLOUR, photometric="rgb"),
        tiff(COLOUR, photometric="rgb", byteorder=">"),
        tiff(COLOUR, photometric="rgb", compression="zlib", predictor=True),
        tiff(COLOUR, photometric="rgb", tile=(16, 16)),
        tiff(np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate"),
        tiff(np.moveaxis(COLOUR, 2, 0), photometric="rgb", planarconfig="separate", compression="zlib", byteorder=">"),
    ],
)
def test_deep_colour_is_exact_at_writing_and_reading(data, value_range):
    done = encode(data, EncodeOptions(value_range=value_range))
    np.testing.assert_array_equal(decode(done.data), to_bits(COLOUR, 8, value_range))
    np.testing.assert_array_equal(decode(data), to_bits(COLOUR, 8))
    np.testing.assert_array_equal(np.load(io.BytesIO(encode(data, EncodeOptions(bits=16)).data)), COLOUR)


def test_deep_colour_with_alpha_is_laid_over_white():
    values = np.dstack([COLOUR, np.full(COLOUR.shape[:2], 65535, np.uint16)])
    values[:9, :, 3] = 0
    pixels = decode(encode(tiff(values, photometric="rgb", extrasamples=["unassalpha"]), EncodeOptions()).data)
    assert (pixels[:9] == 255).all()
    np.testing.assert_array_equal(pixels[9:], to_bits(COLOUR, 8)[9:])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_white_is_the_largest_value_also_where_it_is_zero(dtype):
    grey = (COLOUR[:, :, 0] >> (0 if dtype == np.uint16 else 8)).astype(dtype)
    data = tiff(grey, photometric="miniswhite")
    expected = to_bits(np.iinfo(dtype).max - grey, 8)
    np.testing.assert_array_equal(decode(data, 1)[:, :, 0], expected)
    np.testing.assert_array_equal(decode(encode(data, EncodeOptions(channels=1)).data, 1)[:, :, 0], expected)
    deep = encode(data, EncodeOptions(channels=1, bits=16))
    np.testing.assert_array_equal(np.load(io.BytesIO(deep.data))[:, :, 0], to_bits(np.iinfo(dtype).max - grey, 16))


@pytest.mark.parametrize("value", range(1, 9))
def test_bands_are_turned_upright(value):
    grey = np.ascontiguousarray(BANDS[:, :, 0])
    data = tiff(grey, photometric="minisblack", extratags=[(0x0112, 3, 1, value, True)])
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape == ((40, 48) if value < 5 else (48, 40))
    np.testing.assert_array_equal(decode(data, 1, bits=16)[:, :, 0], expected)  # by tifffile
    np.testing.assert_array_equal(decode(data, 1)[:, :, 0], to_bits(expected, 8))  # by Pillow


def test_a_missing_package_is_no_damage(monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(DataError, match="need tifffile"):
        decode(tiff(BANDS, **CONTIG), 5)


ROWS = (BANDS >> 8).astype(np.uint8)  # (40, 48, 5)
CUBE = np.random.default_rng(1).integers(0, 256, (48, 48, 48), dtype=np.uint8)


def test_pages_are_bands_and_not_rows_where_both_would_do():
    np.testing.assert_array_equal(decode(tiff(CUBE, photometric="minisblack"), 48), np.moveaxis(CUBE, 0, 2))
    np.testing.assert_array_equal(decode(tiff(CUBE, **CONTIG), 48), CUBE)
    np.testing.assert_array_equal(decode(tiff(CUBE, **APART), 48), np.moveaxis(CUBE, 0, 2))


def test_an_array_that_was_written_a_page_a_row_is_read_as_it_was():
    np.testing.assert_array_equal(decode(tiff(ROWS, photometric="minisblack"), 5), ROWS)


@pytest.mark.parametrize(
    ("data", "channels", "reason"),
    [
        (
            tiff(ROWS, photometric="minisblack", metadata=None),
            5,
            "40 pages of 5x48 pixels are not 5 bands of one picture",
        ),
        (tiff(ROWS, **CONTIG), 40, r"it has 5 bands, the set wants 40 \(bands are counted by model.in_chans"),
        (tiff(ROWS, **CONTIG), 3, "model.in_chans.*: a TIFF of 1 page of 48x40 pixels with 5 bands"),
        (tiff(ROWS, photometric="minisblack"), 3, "min_side=8: a TIFF of 40 pages of 5x48 pixels with 1 band$"),
        (tiff(np.stack([ROWS] * 7), **CONTIG), 5, "a TIFF of 7 pages of 48x40 pixels with 5 bands"),
    ],
)
def test_errors_tell_pages_from_bands(data, channels, reason):
    with pytest.raises(DecodeError, match=reason):
        encode(data, EncodeOptions(channels=channels))
