import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_images import image_bytes, jpeg_claiming, make_pixels, png16, png_claiming
from PIL import Image, ImageOps

from data.augment import random_resized_crop
from data.decode import DecodeError, decode
from data.encode import EncodeOptions, encode
from data.jpeg import jpeg_header

RGB = make_pixels(0)


def test_lossless_formats_are_exact_whatever_the_name():
    for kind in ("PNG", "BMP", "TIFF", "PPM"):
        np.testing.assert_array_equal(decode(image_bytes(RGB, kind)), RGB)
    np.testing.assert_array_equal(decode(image_bytes(RGB, "WEBP", lossless=True)), RGB)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA"])
def test_other_modes_become_rgb(mode):
    assert decode(image_bytes(Image.fromarray(RGB).convert(mode), "PNG")).shape == RGB.shape


def test_cmyk():
    decoded = decode(image_bytes(Image.fromarray(RGB).convert("CMYK"), "JPEG", quality=95))
    assert np.abs(decoded.astype(int) - RGB).mean() < 12


def test_sixteen_bits_are_scaled_not_cut():
    ramp = np.linspace(0, 65535, 64 * 32).reshape(32, 64).astype(np.uint16)
    np.testing.assert_allclose(decode(image_bytes(Image.fromarray(ramp), "PNG"))[:, :, 0], ramp / 257, atol=0.51)


def test_hidden_colour_behind_transparency_becomes_white():
    hidden = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    assert (decode(image_bytes(Image.fromarray(hidden), "PNG")) == 255).all()


def test_transparent_palette():
    image = Image.new("P", (16, 16), 0)
    image.putpalette([10, 20, 30] + [0] * 765)
    assert (decode(image_bytes(image, "GIF", transparency=0)) == 255).all()


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    data = image_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


def test_first_frame_of_an_animated_webp():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    data = image_bytes(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert decode(data).shape == (32, 32, 3)
    assert decode(data)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3)])
def test_slivers_are_read_and_not_written(shape):
    data = image_bytes(np.zeros(shape, np.uint8))
    assert decode(data).shape == shape
    assert random_resized_crop(decode(data), (16, 16), 0).shape == (16, 16, 3)
    with pytest.raises(DecodeError, match=f"{shape[1]}x1 is smaller than min_side=8"):
        encode(data, EncodeOptions())


@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    upright = np.zeros((24, 48, 3), np.uint8)
    upright[:8, :8] = 255
    data = image_bytes(upright, "PNG", exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data), expected)
    data = image_bytes(upright, quality=95, exif=exif)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data), expected)
    np.testing.assert_array_equal(decode(data, decoder="pil"), expected)


@pytest.mark.parametrize("options", [{}, {"quality": 30}, {"subsampling": "4:4:4"}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_the_fast_decoder_equals_pillow(options, mode):
    data = image_bytes(Image.fromarray(make_pixels(3, 123, 211)).convert(mode), "JPEG", **options)
    fast, reference = decode(data).astype(float), decode(data, decoder="pil")
    error = ((fast - reference) ** 2).mean()
    assert error <= 255**2 / 10**5  # 50 dB


def test_a_jpeg_damaged_in_the_middle_is_refused():
    data = bytearray(image_bytes(make_pixels(0, 200, 300), quality=90))
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(range(64))
    assert decode(bytes(data), decoder="pil").shape == (200, 300, 3)  # Pillow accepts it
    with pytest.raises(DecodeError, match="damaged pixels"):
        decode(bytes(data))
    with pytest.raises(DecodeError, match="damaged pixels"):
        decode(image_bytes(RGB)[:-2])  # only the end mark is missing


def test_header_of_a_jpeg():
    assert jpeg_header(image_bytes(RGB, progressive=True)) == (48, 64, 3, True, 1)
    assert jpeg_header(image_bytes(RGB, "PNG")) is None
    assert jpeg_header(b"\xff\xd8" + bytes(50)) is None
    for cut in range(0, 700, 7):
        jpeg_header(image_bytes(RGB)[:cut])


def test_grey():
    assert decode(image_bytes(RGB), channels=1).shape == (48, 64, 1)
    assert decode(image_bytes(Image.fromarray(RGB[:, :, 0])), channels=1).shape == (48, 64, 1)
    with pytest.raises(DecodeError, match="1 or 3 channels"):
        decode(image_bytes(RGB), channels=5)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html></html>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (image_bytes(RGB)[:-400], "damaged"),
        (image_bytes(RGB, "PNG")[:-400], "damaged"),
        (png_claiming(10_000, 10_001), "exceeds max_pixels"),
        (png_claiming(60_000, 60_000), "exceeds max_pixels"),
        (jpeg_claiming(65_500, 65_500), "exceeds max_pixels"),
        (image_bytes(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), "floating-point"),
    ],
)
def test_hostile_images_are_refused(data, reason):
    with pytest.raises(DecodeError, match=reason):
        decode(data)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]), st.randoms(use_true_random=False))
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_gives_pixels_or_a_decode_error(kind, random):
    data = bytearray(image_bytes(RGB, kind))
    for _ in range(random.randint(1, 20)):
        data[random.randrange(len(data))] = random.randrange(256)
    try:
        decoded = decode(bytes(data), max_pixels=100_000)
    except DecodeError:
        return
    assert decoded.dtype == np.uint8
    assert decoded.ndim == 3
