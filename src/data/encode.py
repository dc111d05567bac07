"""One source image to the bytes that go into a shard. Writer processes import this, so it does without torch."""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.decode import MAX_PIXELS, DecodeError, orientation, read_header, to_rgb


@dataclass(frozen=True)
class EncodeOptions:
    """What is done to an image at writing.

    resize: shorter side in pixels after writing; larger images are shrunk, smaller ones are left; None keeps originals.
    quality: JPEG quality of re-encoded images, 4:2:0. (256, 95) keeps 40 dB at 192 px and needs 42 KB an image.
    min_side: images with a shorter side are refused.
    max_pixels: images with more pixels are refused before they are decoded.
    """

    resize: int | None = 256
    quality: int = 95
    min_side: int = 8
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Encoded:
    """The bytes to store, their suffix, and per channel the number, sum and sum of squares of pixel values 0..255."""

    data: bytes
    suffix: str
    pixels: int
    total: tuple[int, ...]
    squares: tuple[int, ...]


_VALUES = np.arange(256, dtype=np.int64)


def _moments(image: Image.Image) -> tuple[tuple[int, ...], tuple[int, ...]]:
    # Whole numbers: the same for any order of summing, so statistics do not depend on the number of writers.
    counts: NDArray[np.int64] = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)
    return tuple((counts @ _VALUES).tolist()), tuple((counts @ _VALUES**2).tolist())


def _keep(image: Image.Image, turn: int) -> str | None:
    """The suffix under which the file may be stored as it is; None when it has to be encoded again."""
    if turn != 1 or image.mode != "RGB" or "transparency" in image.info:
        return None
    if image.format == "JPEG" and not image.info.get("progressive"):
        return "jpg"
    # 16-bit PNGs open as RGB too; their header says so at a fixed place.
    return "png" if image.format == "PNG" and not getattr(image, "is_animated", False) else None


def encode(data: bytes, options: EncodeOptions) -> Encoded:
    """Check an image and bring it to the stored form.

    Files that need no change (upright RGB JPEG or PNG, small enough) are copied byte for byte. Others become
    JPEG, or PNG where the source is lossless and was not shrunk, so that tiny scans keep every pixel.

    Raises:
        DecodeError: with the reason.
    """
    image = read_header(data, options.max_pixels)
    short = min(image.size)
    if short < options.min_side:
        raise DecodeError(f"{image.width}x{image.height} is smaller than min_side={options.min_side}")
    shrink = options.resize is not None and short > options.resize
    suffix = _keep(image, orientation(image))
    if suffix == "png" and data[24:25] != b"\x08":
        suffix = None
    lossless = image.format in ("PNG", "BMP", "TIFF", "GIF", "PPM")
    rgb = to_rgb(image)
    if shrink:
        assert options.resize is not None
        factor = options.resize / short
        size = (max(1, round(rgb.width * factor)), max(1, round(rgb.height * factor)))
        rgb = rgb.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    total, squares = _moments(rgb)
    if suffix is None or shrink:
        suffix = "png" if lossless and not shrink else "jpg"
        data = _compress(rgb, suffix, options.quality)
    return Encoded(data, suffix, rgb.width * rgb.height, total, squares)


def _compress(image: Image.Image, suffix: str, quality: int) -> bytes:
    clean = Image.new("RGB", image.size)  # leaves metadata behind
    clean.paste(image)
    out = io.BytesIO()
    if suffix == "png":
        clean.save(out, "PNG")
    else:
        clean.save(out, "JPEG", quality=quality, subsampling="4:2:0")
    return out.getvalue()
