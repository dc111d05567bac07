"""Random damage of every format gives pixels or a DecodeError, at writing and at reading, without a warning."""

import io
import random

import numpy as np
import pytest
import tifffile
from made_images import image_bytes, make_pixels, png16
from PIL import Image

from data.codecs.bands import npy_bytes
from data.codecs.decode import DecodeError, decode
from data.codecs.encode import EncodeOptions, encode

PICTURE = Image.fromarray(make_pixels(0))
BANDS = np.random.default_rng(0).integers(0, 65536, (20, 30, 5), dtype=np.uint16)
EXIF = Image.Exif()
EXIF[0x0112] = 6


def tiff(values, **options):
    out = io.BytesIO()
    tifffile.imwrite(out, values, photometric="minisblack", **options)
    return out.getvalue()


SEEDS = {
    "jpeg": (3, image_bytes(PICTURE, exif=EXIF)),
    "cmyk": (3, image_bytes(PICTURE.convert("CMYK"), progressive=True)),
    "png": (3, image_bytes(PICTURE, "PNG", exif=EXIF)),
    "png16": (3, png16(BANDS[:, :, :3])),
    "gif": (3, image_bytes(PICTURE, "GIF")),
    "webp": (3, image_bytes(PICTURE, "WEBP", exif=EXIF)),
    "bmp": (3, image_bytes(PICTURE, "BMP")),
    "ppm": (3, image_bytes(PICTURE, "PPM")),
    "jp2": (3, image_bytes(PICTURE, "JPEG2000")),
    "tiff": (3, image_bytes(PICTURE, "TIFF", compression="tiff_adobe_deflate")),
    "bands": (5, tiff(BANDS, planarconfig="contig", compression="zlib", predictor=True)),
    "tiles": (5, tiff(np.moveaxis(BANDS, 2, 0), planarconfig="separate", tile=(16, 16), bigtiff=True)),
    "npy": (5, npy_bytes(BANDS)),
}


def damaged(data, source):
    data = bytearray(data)
    # headers are short and decide most
    end = source.choice((64, 300, len(data)))
    for _ in range(source.randint(1, 8)):
        place = source.randrange(min(end, len(data)))
        data[place] = source.choice((0, 1, 0x7F, 0xFF, source.randrange(256)))
    return bytes(data[: source.randrange(len(data))] if source.random() < 0.05 else data)


@pytest.mark.parametrize("kind", SEEDS)
def test_damage_gives_pixels_or_a_decode_error(kind):
    channels, data = SEEDS[kind]
    source = random.Random(kind)
    outcomes = set()
    for _ in range(60):
        file = damaged(data, source)
        for read in (
            lambda: decode(file, channels, max_pixels=100_000).shape[2],  # noqa: B023
            lambda: decode(file, channels, max_pixels=100_000, decoder="pil").shape[2],  # noqa: B023
            lambda: len(encode(file, EncodeOptions(channels=channels, max_pixels=100_000)).moments[1]),  # noqa: B023
        ):
            try:
                assert read() == channels
                outcomes.add("pixels")
            except DecodeError:
                outcomes.add("refused")
    assert "refused" in outcomes
