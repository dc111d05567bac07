import io

import numpy as np
import pytest
import tifffile

from data.codecs.bands import npy_bytes, npy_head, to_bits
from data.codecs.decode import DecodeError, decode
from data.codecs.encode import EncodeOptions, encode
from swinmim.errors import ConfigError

RNG = np.random.default_rng(0)


def npy(values, **options):
    out = io.BytesIO()
    np.save(out, values, **options)
    return out.getvalue()


def tiff(values, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, values, photometric="minisblack", **options)
    return out.getvalue()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("first", [False, True])
def test_any_number_of_bands(channels, dtype, first):
    values = RNG.integers(0, np.iinfo(dtype).max + 1, (20, 30, channels), dtype=dtype)
    stored = np.ascontiguousarray(np.moveaxis(values, 2, 0)) if first else values
    expected = values if dtype == np.uint8 else np.round(values / 257).astype(np.uint8)
    files = [npy(stored), npy(np.asfortranarray(stored))]
    if channels not in (1, 3):
        files.append(tiff(stored, planarconfig="separate" if first else "contig"))
    for file in files:
        np.testing.assert_array_equal(decode(file, channels), expected)


def test_the_range_of_sixteen_bits_can_be_told():
    values = np.array([[0, 1000, 6000, 11000, 65535]], np.uint16)
    assert to_bits(values, 8, (1000, 11000)).tolist() == [[0, 0, 128, 255, 255]]
    wide = to_bits(values, 16, (1000, 11000))
    assert wide.dtype == np.uint16
    assert wide.tolist() == [[0, 0, 32768, 65535, 65535]]
    assert len(np.unique(to_bits(np.arange(10001, dtype=np.uint16), 16, (0, 10000)))) == 10001
    np.testing.assert_array_equal(to_bits(values, 16), values)
    assert to_bits(np.array([0, 1, 255], np.uint8), 16).tolist() == [0, 257, 65535]
    with pytest.raises(ConfigError, match="value_range must rise"):
        EncodeOptions(value_range=(5, 5))


def test_stored_bands_are_npy_shrunk_and_counted():
    values = RNG.integers(0, 65536, (40, 80, 5), dtype=np.uint16)
    done = encode(npy(values), EncodeOptions(resize=20, channels=5))
    assert done.suffix == "npy"
    pixels = np.load(io.BytesIO(done.data))
    assert pixels.shape == (20, 40, 5)
    values = pixels.astype(int)
    assert done.moments == (800, tuple(values.sum((0, 1))), tuple((values**2).sum((0, 1))))
    small = RNG.integers(0, 256, (16, 16, 2), dtype=np.uint8)
    assert encode(npy(small), EncodeOptions(channels=2)).data == npy_bytes(small)


def test_deep_colour_and_grey_become_pictures():
    colour = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    for file in (npy(colour), tiff(colour, planarconfig="contig")):
        done = encode(file, EncodeOptions())
        assert done.suffix == "png"
        np.testing.assert_array_equal(decode(done.data), np.round(colour / 257))
    grey = RNG.integers(0, 65536, (20, 30), dtype=np.uint16)
    for file in (npy(grey), tiff(grey)):
        done = encode(file, EncodeOptions(channels=1))
        np.testing.assert_array_equal(decode(done.data, 1)[:, :, 0], np.round(grey / 257))


def npy_claiming(shape, descr="|u1"):
    return npy_head(f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}}}") + bytes(80)


@pytest.mark.parametrize(
    "data", [npy(np.ones((4, 6, 5), np.uint16)), npy(np.asfortranarray(np.ones((4, 6, 5), ">u2")))]
)
def test_npy_of_both_versions(data):
    longer = b"\x93NUMPY\x02\x00" + data[8:10] + b"\0\0" + data[10:]
    for file in (data, longer):
        np.testing.assert_array_equal(decode(file, 5, bits=16), np.load(io.BytesIO(file)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff", "store .npy or TIFF"),
        (npy(np.zeros((4, 4, 5), np.float32)), "no known range"),
        (npy(np.array([{}]), allow_pickle=True), "no known range"),
        (npy(np.zeros((4, 4, 6), np.uint8)), r"is not \(height, width, 5\)"),
        (npy(np.zeros((4, 4, 5), np.uint8))[:-9], "ends after 71 of 80"),
        (npy(np.zeros((4, 4, 5), np.uint8))[:9], "header"),
        (npy_claiming((90000, 90000, 5)), "exceeds max_pixels"),
        (npy_claiming((2**62, 4, 5)), "exceeds max_pixels"),
        (npy_claiming((8000, 8000, 5), "<u2"), "640000000 bytes of .* exceed the limit of 536870912"),
        (npy_claiming((-1, 1, 5)), "is not"),
        (npy_claiming((-4, -4, 5)), "is not"),
        (npy_claiming((True, 4, 5)), "its values"),
        (npy_claiming([4, 4, 5]), "its values"),
        (npy_claiming((4, 4, 5), ("|u1",)), "no known range"),
        (npy_claiming((4, 4, 5), "|V1"), "no known range"),
        (npy_head("{'descr': '|u1', 'shape': (4, 4, 5)}") + bytes(80), "its keys"),
        (npy_head("[" * 500) + bytes(80), "damaged npy header"),
        (npy_head("(" * 60 + "{'descr") + bytes(80), "damaged npy header"),
        (npy_head("{[]: 1}") + bytes(80), "damaged npy header"),
        (npy_head("'\\d' 1is 2") + bytes(80), "damaged npy header"),
        (npy_head(" " * 2000) + bytes(80), "its length"),
        (b"\x93NUMPY\x03\x00" + bytes(99), r"npy version 3\.0 is not read"),
        (b"\x93NUMPY\x01\x00\xff\xff" + bytes(99), "its length"),
        (tiff(np.zeros((9, 9, 5), np.uint8))[:60], "damaged TIFF|shape|not enough"),
        (b"II*\0" + bytes(40), "damaged TIFF|shape|not enough"),
    ],
)
def test_hostile_bands(data, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(data, 5)
