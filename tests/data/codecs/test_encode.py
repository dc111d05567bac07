"""What each kind of input becomes at writing: the table of docs/data.md, by encode()."""

import io
import struct
import time
import zlib
from typing import Any

import numpy as np
import pytest
from made_images import image_bytes, jpeg_claiming, make_pixels, png16, png_claiming, wide_profile
from PIL import Image, ImageCms, ImageOps

from data.codecs.bands import to_bits
from data.codecs.decode import DecodeError, decode
from data.codecs.encode import EncodeOptions, encode
from data.codecs.png import check_png
from data.codecs.webp import stripped_webp

RGB = make_pixels(0)
PICTURE = Image.fromarray(RGB)
KEEP = EncodeOptions(resize=None)
GREY = EncodeOptions(resize=None, channels=1)


def stored(data, options=KEEP):
    done = encode(data, options)
    return decode(done.data, options.channels)


def psnr(a, b):
    error = ((np.asarray(a, float) - b) ** 2).mean()
    return 100 if error == 0 else 10 * np.log10(255**2 / error)


def animated(kind, **options):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    return image_bytes(frames[0], kind, save_all=True, append_images=frames[1:], **options)


# Damage


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_jpeg_is_refused(mode):
    whole = image_bytes(Image.fromarray(make_pixels(0, 200, 300)).convert(mode), quality=90)
    middle = bytearray(whole)
    middle[len(whole) // 2 : len(whole) // 2 + 64] = bytes(range(64))
    for damaged in (whole[:-2], whole[: len(whole) // 2], bytes(middle)):
        with pytest.raises(DecodeError, match="damaged pixels"):
            encode(damaged, EncodeOptions())


def test_a_flipped_bit_anywhere_in_a_png_is_refused():
    whole = image_bytes(RGB, "PNG")
    for place in range(8, len(whole), 97):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        for read in (decode, lambda data: encode(data, EncodeOptions())):
            with pytest.raises(DecodeError):
                read(bytes(damaged))
    with pytest.raises(DecodeError, match="no end mark"):
        encode(whole[:-12], EncodeOptions())
    with pytest.raises(DecodeError, match="no end mark"):
        decode(whole[:-12])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (png_claiming(10_000, 10_001), "exceeds max_pixels"),
        (png_claiming(20_000, 20_000), "exceeds max_pixels"),
        (jpeg_claiming(65_500, 65_500), "exceeds max_pixels"),
        (png_claiming(65_501, 9), "above 65500"),
        (jpeg_claiming(65_535, 8), "above 65500"),
    ],
)
def test_bombs_are_refused_by_their_header(data, reason):
    start = time.process_time()
    for read in (decode, lambda data: decode(data, decoder="pil"), lambda data: encode(data, EncodeOptions())):
        with pytest.raises(DecodeError, match=reason):
            read(data)
    assert time.process_time() - start < 0.5


# Colours


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_has_the_colours_of_pillow(adobe):
    smooth = np.linspace(0, 255, 48 * 64 * 3).reshape(48, 64, 3).astype(np.uint8)
    data = image_bytes(Image.fromarray(smooth[::-1]).convert("CMYK"), quality=95)
    if not adobe:
        place = data.index(b"\xff\xee")
        data = data[:place] + data[place + 2 + int.from_bytes(data[place + 2 : place + 4], "big") :]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data), expected)
    assert psnr(stored(data, EncodeOptions(quality=100)), expected) > 30


def test_grey_palette_and_half_transparent_pictures():
    grey = PICTURE.convert("L")
    np.testing.assert_array_equal(stored(image_bytes(grey, "PNG")), np.asarray(grey.convert("RGB")))
    np.testing.assert_array_equal(stored(image_bytes(grey, "PNG"), GREY)[:, :, 0], np.asarray(grey))
    palette = PICTURE.quantize(16)
    np.testing.assert_array_equal(stored(image_bytes(palette, "PNG")), np.asarray(palette.convert("RGB")))
    grey.putalpha(128)
    expected = 255 - (255 - np.asarray(PICTURE.convert("L")).astype(float)) * 128 / 255
    for options in (KEEP, GREY):
        np.testing.assert_allclose(stored(image_bytes(grey, "PNG"), options)[:, :, 0], expected, atol=1)


def test_hidden_colour_becomes_white():
    hidden = np.dstack([RGB, np.zeros(RGB.shape[:2], np.uint8)])
    for kind in ("PNG", "WEBP", "TIFF"):
        done = encode(image_bytes(hidden, kind, **({"lossless": True} if kind == "WEBP" else {})), EncodeOptions())
        assert (decode(done.data) == 255).all()
        assert done.suffix == "png"
    keyed = image_bytes(PICTURE, "PNG", transparency=tuple(RGB[3, 5].tolist()))
    assert (stored(keyed)[3, 5] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_png_is_exact(channels):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    data = png16(values)
    for value_range in ((0, 65535), (1000, 5095)):
        expected = to_bits(values, 8, value_range)
        options = EncodeOptions(resize=None, channels=channels, value_range=value_range)
        np.testing.assert_array_equal(stored(data, options), expected)
    np.testing.assert_array_equal(decode(data, channels), to_bits(values, 8))
    np.testing.assert_array_equal(decode(data, channels, decoder="pil"), to_bits(values, 8))
    deep = encode(data, EncodeOptions(resize=None, channels=channels, bits=16))
    assert deep.suffix == "npy"
    np.testing.assert_array_equal(np.load(io.BytesIO(deep.data)), values)
    np.testing.assert_array_equal(decode(data, channels, bits=16), values)


def test_sixteen_bits_with_transparency():
    values = np.full((16, 16, 4), 30000, np.uint16)
    values[:8, :, 3] = 0
    values[8:, :, 3] = 65535
    pixels = stored(png16(values))
    assert (pixels[:8] == 255).all()
    assert (pixels[8:] == round(30000 / 257)).all()
    keyed = png16(values[:, :, :3], clear=(30000, 30000, 30000))
    assert (stored(keyed) == 255).all()
    with pytest.raises(DecodeError, match="another kind than 3 channel"):
        decode(keyed, bits=16)
    with pytest.raises(DecodeError, match="value range is known for 16-bit grey, RGB"):
        encode(png16(values[:, :, :2]), EncodeOptions(value_range=(0, 4095)))


def test_eight_bits_are_not_taken_for_sixteen():
    for data in (image_bytes(RGB), image_bytes(RGB, "PNG")):
        with pytest.raises(DecodeError, match="this image has 8 bits, the set wants 16"):
            encode(data, EncodeOptions(bits=16))


def test_floating_point_is_refused():
    with pytest.raises(DecodeError, match="floating-point"):
        encode(image_bytes(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"), EncodeOptions())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_stored_as_their_first_frame(kind):
    done = encode(animated(kind, **({"lossless": True} if kind == "WEBP" else {})), EncodeOptions())
    assert done.suffix == "png"
    assert not getattr(Image.open(io.BytesIO(done.data)), "is_animated", False)
    assert (decode(done.data) == (255, 0, 0)).all()


# Profiles


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK"])
def test_a_colour_profile_is_applied_in_every_mode(mode):
    picture = PICTURE.quantize(32) if mode == "P" else PICTURE.convert(mode)
    profile = wide_profile()
    if mode == "RGBA":
        picture.putalpha(Image.new("L", picture.size, 128))
    data = image_bytes(picture, "TIFF" if mode == "CMYK" else "PNG", icc_profile=profile)
    if mode == "CMYK":  # an RGB profile does not fit: the colours stay
        np.testing.assert_array_equal(stored(data), np.asarray(picture.convert("RGB")))
        return
    flat = picture.convert("RGB")
    if mode == "RGBA":
        flat = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    source, srgb = ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    expected = np.asarray(ImageCms.profileToProfile(flat, source, srgb))
    assert np.abs(expected.astype(int) - flat).mean() > 3
    np.testing.assert_array_equal(stored(data), expected)
    assert "icc_profile" not in Image.open(io.BytesIO(encode(data, KEEP).data)).info


def profile(kind, space, extra):
    """A small ICC profile from this kind of colours to CIE XYZ or Lab."""
    white = b"XYZ " + bytes(4) + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    name = b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78) + b"\0"
    parts = {b"desc": name, b"wtpt": white, **extra}
    table, body = struct.pack(">I", len(parts)), b""
    start = 128 + 4 + 12 * len(parts)
    for tag, part in parts.items():
        table += tag + struct.pack(">II", start + len(body), len(part))
        body += part
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02400000, b"prtr", kind, space)
    head = head.ljust(36, b"\0") + b"acsp" + bytes(28) + struct.pack(">III", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + table + body


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_grey_profile_is_applied(kind):
    grey = Image.new("L", (16, 16), 100)
    straight = {b"kTRC": b"curv" + bytes(4) + struct.pack(">IHH", 1, 256, 0)}  # light in proportion to the value
    icc_profile = profile(b"GRAY", b"XYZ ", straight)
    data = image_bytes(grey, kind, icc_profile=icc_profile, **({"quality": 100} if kind == "JPEG" else {}))
    linear = 100 / 255
    expected = 255 * (1.055 * linear ** (1 / 2.4) - 0.055)  # sRGB of that amount of light
    assert abs(stored(data).astype(float).mean() - expected) < 2
    assert abs(stored(data, GREY).astype(float).mean() - expected) < 2


def test_a_profile_of_cmyk_is_applied():
    # of ink that is grey whatever its colour: the more, the darker
    ramp = bytes(range(256))
    corners = b"".join(bytes((255 - 60 * n.bit_count(), 128, 128)) for n in range(16))
    head = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + struct.pack(">9I", *np.eye(3, dtype=int).ravel() * 65536)
    icc_profile = profile(b"CMYK", b"Lab ", {b"A2B0": head + ramp * 4 + corners + ramp * 3})
    picture = Image.new("CMYK", (16, 16), (255, 0, 255, 0))  # green without the profile
    for kind in ("JPEG", "TIFF"):
        pixels = stored(image_bytes(picture, kind, icc_profile=icc_profile))
        assert np.ptp(pixels, axis=2).max() < 6
        assert 100 < pixels.mean() < 160


def test_a_turned_picture_with_a_profile_is_turned_and_converted():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = image_bytes(RGB, quality=95, icc_profile=wide_profile())
    turned = image_bytes(RGB, quality=95, icc_profile=wide_profile(), exif=exif)
    options = EncodeOptions(resize=None, quality=100)
    assert psnr(stored(turned, options), np.rot90(stored(plain, options), -1)) > 35


# Turning


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("value", range(1, 9))
def test_orientation(kind, options, value):
    exif = Image.Exif()
    exif[0x0112] = value
    pixels = np.zeros((24, 48, 3), np.uint8)
    pixels[:8, :8], pixels[-8:, :8], pixels[:8, -8:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    data = image_bytes(pixels, kind, exif=exif, **options)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert expected.shape == ((24, 48, 3) if value < 5 else (48, 24, 3))
    np.testing.assert_array_equal(decode(data), expected)
    np.testing.assert_array_equal(decode(data, decoder="pil"), expected)
    assert psnr(stored(data, EncodeOptions(resize=None, quality=100)), expected) > (25 if kind == "JPEG" else 99)
    grey = np.asarray(Image.fromarray(expected).convert("L"))
    assert psnr(stored(data, EncodeOptions(resize=None, channels=1, quality=100))[:, :, 0], grey) > 25


# Copying


def segment(marker, body):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4"}])
def test_copied_jpegs_lose_their_metadata_and_no_pixel(mode, options):
    plain = image_bytes(PICTURE.convert(mode), quality=80, **options)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 1, "secret"
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    rich = image_bytes(PICTURE.convert(mode), quality=80, exif=exif, icc_profile=srgb, comment=b"secret", **options)
    rich = rich[:2] + segment(0xE5, b"secret" * 9000) + b"\xff" + rich[2:] + b"\xff\xd8secret\xff\xd9"
    channels = 3 if mode == "RGB" else 1
    done = encode(rich, EncodeOptions(channels=channels))
    assert b"secret" in rich
    assert b"secret" not in done.data
    assert len(done.data) <= len(plain) + 2
    for decoder in ("turbo", "pil"):
        np.testing.assert_array_equal(decode(done.data, channels, decoder=decoder), decode(rich, channels))
    assert encode(plain, EncodeOptions(channels=channels)).data == plain
    assert encode(done.data, EncodeOptions(channels=channels)).data == done.data


def test_the_mark_that_tells_the_colour_space_stays():
    rgb_inside = image_bytes(RGB, quality=90, keep_rgb=True)
    assert b"Adobe" in rgb_inside
    assert encode(rgb_inside, EncodeOptions()).data == rgb_inside
    assert psnr(decode(rgb_inside), RGB) > 30


def test_copied_pngs_lose_their_metadata():
    from PIL.PngImagePlugin import PngInfo

    told = PngInfo()
    told.add_text("Comment", "secret")
    exif = Image.Exif()
    exif[0x010E] = "secret"
    rich = image_bytes(PICTURE, "PNG", pnginfo=told, exif=exif, dpi=(72, 72)) + b"secret"
    done = encode(rich, EncodeOptions())
    assert b"secret" not in done.data
    assert done.data == image_bytes(PICTURE, "PNG")
    check_png(done.data)


def test_small_webps_are_copied_without_metadata():
    exif = Image.Exif()
    exif[0x010E] = "secret"
    for options in ({"quality": 60}, {"lossless": True}):
        plain = image_bytes(RGB, "WEBP", **options)
        assert encode(plain, EncodeOptions()).data == plain
        rich = image_bytes(RGB, "WEBP", exif=exif, **options)
        done = encode(rich, EncodeOptions())
        assert done.suffix == "webp"
        assert done.data == stripped_webp(rich) == plain
        np.testing.assert_array_equal(decode(done.data), decode(rich))


def test_webps_that_must_change():
    turned = Image.Exif()
    turned[0x0112] = 3
    for options, suffix in (({"lossless": True}, "png"), ({"quality": 90}, "jpg")):
        assert encode(image_bytes(RGB, "WEBP", exif=turned, **options), EncodeOptions()).suffix == suffix
        assert encode(animated("WEBP", **options), EncodeOptions()).suffix == suffix
        assert encode(image_bytes(RGB, "WEBP", **options), EncodeOptions(resize=40)).suffix == "jpg"
        assert encode(image_bytes(RGB, "WEBP", **options), GREY).suffix == suffix


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("JPEG", {"quality": 90})])
def test_the_content_decides_not_the_name(kind, options):
    data = image_bytes(RGB, kind, **options)
    done = encode(data, EncodeOptions())  # takes no name at all
    assert done.suffix == {"PNG": "png", "JPEG": "jpg"}[kind]
    assert done.data == data


def test_sixteen_bit_and_animated_pngs_are_not_copied_as_they_are():
    for data in (png16(np.full((16, 16, 3), 300, np.uint16)), animated("PNG"), animated("PNG", default_image=True)):
        done = encode(data, EncodeOptions())
        assert done.data != data
        assert done.data[24] == 8
        assert not {b"acTL", b"fcTL", b"fdAT"} & {done.data[n : n + 4] for n in range(len(done.data))}
        np.testing.assert_array_equal(decode(done.data), decode(data))


# Compressing


def test_quality_and_subsampling_are_those_asked_for():
    data = image_bytes(make_pixels(0, 128, 128), "PNG")
    for quality in (40, 95):
        done: Any = Image.open(io.BytesIO(encode(data, EncodeOptions(resize=64, quality=quality)).data))
        reference: Any = Image.open(io.BytesIO(image_bytes(Image.new("RGB", (64, 64)), quality=quality)))
        assert done.quantization == reference.quantization
        assert [layer[1:3] for layer in done.layer] == [(2, 2), (1, 1), (1, 1)]
    grey: Any = Image.open(io.BytesIO(encode(data, EncodeOptions(resize=64, quality=40, channels=1)).data))
    plain: Any = Image.open(io.BytesIO(image_bytes(Image.new("L", (64, 64)), quality=40)))
    assert grey.quantization == plain.quantization


def test_a_broken_exif_block_is_silent():
    broken = zlib.crc32(b"x").to_bytes(4, "big") * 9
    data = image_bytes(RGB)
    data = data[:2] + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + broken) + data[2:]
    assert decode(data).shape == RGB.shape
    assert decode(data, decoder="pil").shape == RGB.shape
    assert encode(data, EncodeOptions()).suffix == "jpg"
