"""One source image to the bytes that go into a shard. Encoder processes import this, so it does without torch."""

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from data.codecs.bands import FULL_RANGE, MAX_BYTES, Bits, Pixels, npy_bytes, peak
from data.codecs.decode import MAX_PIXELS, check_size, flat, full_header, is_bands, read_bands, read_header, to_mode
from data.codecs.formats import CLIPS, clip_suffix, lacks_index
from data.codecs.jpeg import SOI, decode_jpeg, stripped_jpeg
from data.codecs.orientation import orientation
from data.codecs.parsers import DecodeError
from data.codecs.png import stripped_png
from data.codecs.statistics import Moments, moments
from data.codecs.tiff import is_tiff, tiff_header
from data.codecs.webp import picture_chunk, stripped_webp
from swinmim.errors import ConfigError


@dataclass(frozen=True)
class EncodeOptions:
    """What is done to an image at writing.

    resize: shorter side in pixels after writing; larger images are shrunk, smaller ones are left; None keeps originals.
    quality: JPEG quality of re-encoded images, 4:2:0. (256, 95) keeps 40 dB at 192 px and needs 42 KB an image.
    min_side: images with a shorter side are refused.
    max_pixels: images with more pixels are refused before they are decoded.
    channels: 3 for RGB, 1 for grey; any other number takes .npy and TIFF of that many bands and stores .npy.
    bits: 8 or 16 per value. 16 takes .npy and TIFF of any number of channels and 16-bit PNG, and stores .npy.
    value_range: the 16-bit values that become 0 and the largest stored one. Sensors rarely fill 16 bits: Sentinel-2,
        say, wants 0, 10000.
    """

    resize: int | None = 256
    quality: int = 95
    min_side: int = 8
    max_pixels: int = MAX_PIXELS
    channels: int = 3
    bits: Bits = 8
    value_range: tuple[int, int] = FULL_RANGE

    def __post_init__(self) -> None:
        if broken := [rule for rule, holds in self.rules().items() if not holds]:
            raise ConfigError("; ".join(broken))

    def rules(self) -> dict[str, bool]:
        """What must hold, and whether it does."""
        low, high = self.value_range
        return {
            f"resize must be at least 1, got {self.resize}": self.resize is None or self.resize >= 1,
            f"quality must lie between 1 and 100, got {self.quality}": 1 <= self.quality <= 100,
            f"channels must be at least 1, got {self.channels}": self.channels >= 1,
            f"bits must be 8 or 16, got {self.bits}": self.bits in (8, 16),
            f"value_range must rise, got {low} to {high}": low < high,
        }


@dataclass(frozen=True)
class Encoded:
    """The bytes to store, their suffix, and the moments of the pixels.

    shape, full_shape: (height, width) as stored, and upright before it was shrunk.
    target: the bytes of the member beside it; empty where there is none.
    pages: of the source, of which the first is stored.
    """

    data: bytes
    suffix: str
    moments: Moments
    shape: tuple[int, int]
    full_shape: tuple[int, int]
    target: bytes = b""
    pages: int = 1


Outcome = Encoded | str
"""An image in its stored form, or the reason why there is none."""


def encode(data: bytes, options: EncodeOptions) -> Encoded:
    """Check an image and bring it to the stored form.

    Files that need no change (upright sRGB or grey JPEG, PNG or WebP, small enough) are copied without their metadata,
    byte for byte otherwise. Others become JPEG, or PNG where the source is lossless and was not shrunk, so that tiny
    scans keep every pixel (JPEG 2000 does not say whether it is lossless and becomes JPEG). Sets of other than 1 or 3
    channels, or of 16 bits, become .npy.

    Raises:
        DecodeError: with the reason.
    """
    header = tiff_header(data) if is_tiff(data) else None
    try:
        return _encoded(data, options, 1 if header is None else header.pages)
    except DecodeError as error:
        if header is None:
            raise
        raise DecodeError(f"{error}: {header}") from error  # pages, bands and sides are easily mistaken


def check_clip(data: bytes) -> str:
    """The suffix for a clip, by its container, which is all that is looked at before its frames are asked for.

    Raises:
        DecodeError: it is none, or was cut short so that no frame can be found.
    """
    if not data:
        raise DecodeError("empty file")
    suffix = clip_suffix(data)
    if suffix is None:
        raise DecodeError(f"no clip by its first bytes ({', '.join(CLIPS)})")
    if suffix == "mp4" and lacks_index(data):
        raise DecodeError("cut short: the table of its frames is missing")
    return suffix


def stored_clip(data: bytes) -> Encoded:
    """A clip as it is; its frames are decoded where they are learnt from. Raises DecodeError as `check_clip`."""
    return Encoded(data, check_clip(data), (0, (), ()), (0, 0), (0, 0))


def _encoded(data: bytes, options: EncodeOptions, pages: int) -> Encoded:
    if len(data) > MAX_BYTES:
        raise DecodeError(f"{len(data)} bytes exceed the limit of {MAX_BYTES} for one image")
    if options.channels not in (1, 3) or options.bits == 16:
        full = read_bands(data, options.channels, options.max_pixels, options.value_range, options.bits)
        pixels = _shrunk_bands(full, options)
        return Encoded(npy_bytes(pixels), "npy", moments(pixels), pixels.shape[:2], full.shape[:2])
    image, suffix, lossless = _open(data, options)
    full_shape = image.height, image.width
    short = min(image.size)
    if options.resize is not None and short > options.resize:
        image, suffix, lossless = _shrunk(image, options.resize / short), None, False
    if suffix is None:
        suffix = "png" if lossless else "jpg"
        data = _compress(image, suffix, options.quality)
    else:
        data = _STRIPPED[suffix](data)
    return Encoded(data, suffix, moments(image), (image.height, image.width), full_shape, pages=pages)


_STRIPPED = {"jpg": stripped_jpeg, "png": stripped_png, "webp": stripped_webp}


def _check_side(width: int, height: int, options: EncodeOptions) -> None:
    if min(width, height) < options.min_side:
        raise DecodeError(f"{width}x{height} is smaller than min_side={options.min_side}")


def _open(data: bytes, options: EncodeOptions) -> tuple[Image.Image, str | None, bool]:
    """The decoded image, the suffix under which its file may be stored as it is, and whether it came without loss."""
    mode = "RGB" if options.channels == 3 else "L"
    if is_bands(data, options.max_pixels):
        pixels = read_bands(data, options.channels, options.max_pixels, options.value_range)
        check_size(pixels.shape[1], pixels.shape[0], options.max_pixels)
        _check_side(pixels.shape[1], pixels.shape[0], options)
        return Image.fromarray(pixels.squeeze(2) if mode == "L" else pixels), None, True
    image = read_header(data, options.max_pixels)
    _check_side(*image.size, options)
    same_mode = image.mode == mode and "transparency" not in image.info
    profile = image.info.get("icc_profile")
    if data[:2] == SOI:
        # Also where Pillow decodes below: it would accept damaged pixels.
        header = full_header(data, options.max_pixels)
        strict = decode_jpeg(data, header, options.channels)
        if strict is not None and same_mode and header.orientation == 1 and _to_srgb(profile, mode) is None:
            return Image.fromarray(strict.squeeze(2) if mode == "L" else strict), "jpg", False
    suffix, lossless = _as_it_is(image, data)
    if not profile or (image.mode in _PROFILED and _to_srgb(profile, image.mode) is None):
        decoded, to_srgb = to_mode(image, mode, options.value_range), None
    else:
        decoded = flat(image, options.value_range)
        to_srgb = _to_srgb(profile, decoded.mode)
        decoded = (decoded if to_srgb is None else _applied(to_srgb, decoded)).convert(mode)
    plain = same_mode and orientation(image) == 1 and to_srgb is None
    return decoded, suffix if plain else None, lossless


def _as_it_is(image: Image.Image, data: bytes) -> tuple[str | None, bool]:
    """The suffix for this file if it is plain, and whether it is lossless."""
    if image.format == "WEBP":
        still = not getattr(image, "is_animated", False)
        return "webp" if still else None, picture_chunk(data)[:4] == b"VP8L"
    # 16-bit PNGs open as RGB too; their header says so at a fixed place. Of animations the first frame is left.
    return "png" if image.format == "PNG" and data[24:25] == b"\x08" else None, image.format in _LOSSLESS


_PROFILED = ("RGB", "L", "CMYK")
_LOSSLESS = ("PNG", "BMP", "TIFF", "GIF", "PPM")


@lru_cache(64)
def _to_srgb(profile: bytes | None, mode: str) -> ImageCms.ImageCmsTransform | None:
    """The way from a colour profile to sRGB; None without one, when it is sRGB already, or when it is unusable."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return None
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _applied(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    try:
        converted = ImageCms.applyTransform(image, transform)
    except (ImageCms.PyCMSError, OSError, ValueError) as error:
        raise DecodeError(f"unusable colour profile ({error})") from error
    assert converted is not None
    return converted


def _shrunk(image: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _shrunk_bands(pixels: Pixels, options: EncodeOptions) -> Pixels:
    height, width, channels = pixels.shape
    _check_side(width, height, options)
    if options.resize is None or min(height, width) <= options.resize:
        return pixels
    factor = options.resize / min(height, width)
    values = pixels if options.bits == 8 else pixels.astype(np.float32)  # Pillow's 16-bit resize is not exact
    bands = [np.asarray(_shrunk(Image.fromarray(values[:, :, c]), factor)) for c in range(channels)]
    shrunk = np.stack(bands, axis=2)
    return shrunk if options.bits == 8 else np.clip(np.rint(shrunk), 0, peak(16)).astype(np.uint16)


def _compress(image: Image.Image, suffix: str, quality: int) -> bytes:
    clean = Image.new(image.mode, image.size)  # leaves metadata behind
    clean.paste(image)
    out = io.BytesIO()
    clean.save(out, {"png": "PNG", "jpg": "JPEG"}[suffix], quality=quality)
    return out.getvalue()
