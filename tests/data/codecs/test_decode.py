import struct

import numpy as np
import pytest
from made_images import image_bytes, jpeg_claiming, make_pixels, png16, png_claiming
from PIL import Image

from data.codecs.decode import DecodeError, decode
from data.codecs.encode import EncodeOptions, encode
from data.codecs.jpeg import jpeg_header
from data.codecs.orientation import upright
from data.loading.views import RandomCrop

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
    assert RandomCrop((16, 16))(decode(data), None, 0)[0].shape == (16, 16, 3)
    with pytest.raises(DecodeError, match=f"{shape[1]}x1 is smaller than min_side=8"):
        encode(data, EncodeOptions())


KINDS = [{}, {"quality": 30}, {"subsampling": "4:4:4"}, {"subsampling": "4:2:2"}, {"progressive": True}]


@pytest.mark.parametrize("options", [*KINDS, {"keep_rgb": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(123, 211), (64, 48), (1, 17), (9, 8)])
def test_the_fast_decoder_equals_pillow(options, mode, size):
    if "keep_rgb" in options and mode != "RGB":
        return
    stripes = np.zeros((*size, 3), np.uint8)
    stripes[::2], stripes[1::2] = (255, 0, 0), (0, 0, 255)  # the hardest colours for grey
    for pixels in (make_pixels(3, *size), stripes):
        data = image_bytes(Image.fromarray(pixels).convert(mode), "JPEG", **options)
        for channels in (1, 3):
            fast, reference = decode(data, channels).astype(float), decode(data, channels, decoder="pil")
            assert fast.shape == (*size, channels)
            assert ((fast - reference) ** 2).mean() <= 255**2 / 10**5  # 50 dB


def test_rare_subsampling_is_read_by_pillow():
    data = image_bytes(Image.fromarray(RGB).convert("CMYK"), subsampling="4:2:2")
    assert encode(data, EncodeOptions()).suffix == "jpg"
    for read in (decode, lambda data: encode(data, EncodeOptions())):
        with pytest.raises(DecodeError, match="damaged pixels"):
            read(data[: len(data) // 2])


def exif_block(*entries, order="<"):
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(entries))
    return b"Exif\0\0" + head + b"".join(struct.pack(order + "HHIHH", *entry) for entry in entries) + bytes(4)


def app1(body):
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


XMP = b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><a tiff:Orientation="6"/></x:xmpmeta>'


@pytest.mark.parametrize(
    ("blocks", "late", "expected"),
    [
        ([exif_block((0x0112, 3, 1, 6, 0))], False, 6),
        ([exif_block((0x0112, 3, 1, 6, 0), order=">")], False, 6),
        ([exif_block((0x0112, 4, 1, 6, 0))], False, 6),  # LONG
        ([exif_block((0x0112, 3, 1, 9, 0))], False, 1),
        ([exif_block((0x0112, 3, 1, 6, 0)), exif_block((0x0112, 3, 1, 3, 0))], False, 6),
        ([exif_block((0x0100, 3, 1, 6, 0)), exif_block((0x0112, 3, 1, 3, 0))], False, 1),
        ([XMP], False, 6),
        ([XMP, exif_block((0x0112, 3, 1, 3, 0))], False, 3),
        ([exif_block((0x0112, 3, 1, 6, 0))], True, 6),
        ([b"Exif\0\0II*\0\xff\xff\xff\xff"], False, 1),
    ],
)
def test_the_decoders_agree_on_the_orientation(blocks, late, expected):
    data = image_bytes(RGB, quality=90)
    place = data.index(b"\xff\xda") if late else 2
    data = data[:place] + b"".join(map(app1, blocks)) + data[place:]
    pixels = decode(data)
    np.testing.assert_array_equal(pixels, decode(data, decoder="pil"))
    np.testing.assert_array_equal(pixels, upright(decode(image_bytes(RGB, quality=90)), expected))


def test_a_header_that_hides_a_larger_image_is_refused():
    large = jpeg_claiming(2000, 2000)
    data = image_bytes(RGB)
    hidden = data[:2] + b"\xff\x00" + struct.pack(">H", len(large)) + large[2:] + data[2:]
    with pytest.raises(DecodeError, match=r"damaged|exceeds"):
        decode(hidden, max_pixels=100_000)


@pytest.mark.parametrize("decoder", ["turbo", "pil"])
def test_hostile_and_unusual_files_at_reading(decoder):
    np.testing.assert_array_equal(decode(image_bytes(RGB, "PNG"), decoder=decoder), RGB)  # whatever its name
    deep = np.random.default_rng(0).integers(0, 65536, (9, 11, 3), dtype=np.uint16)
    np.testing.assert_array_equal(decode(png16(deep), decoder=decoder), np.round(deep / 257))
    with pytest.raises(DecodeError, match="exceeds max_pixels"):
        decode(jpeg_claiming(65_500, 65_500), decoder=decoder)


def test_a_jpeg_damaged_in_the_middle_is_refused():
    data = bytearray(image_bytes(make_pixels(0, 200, 300), quality=90))
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(range(64))
    assert decode(bytes(data), decoder="pil").shape == (200, 300, 3)  # Pillow accepts it
    with pytest.raises(DecodeError, match="damaged pixels"):
        decode(bytes(data))
    with pytest.raises(DecodeError, match="damaged pixels"):
        decode(image_bytes(RGB)[:-2])  # only the end mark is missing
    data = bytearray(image_bytes(Image.fromarray(make_pixels(0, 200, 300)).convert("CMYK"), quality=90))
    data[middle : middle + 64] = bytes(range(64))
    with pytest.raises(DecodeError, match="damaged pixels"):
        decode(bytes(data))


def test_header_of_a_jpeg():
    assert jpeg_header(image_bytes(RGB, progressive=True)) == (48, 64, 3, 1)
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
