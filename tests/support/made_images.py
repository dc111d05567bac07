"""Images for the tests: noise over gradients, made here, never stored in the repository."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[np.uint8]


def make_pixels(number: int, height: int = 48, width: int = 64) -> Pixels:
    rng = np.random.default_rng(number)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.array([1.0, 0.5, 0.2])
    pixels: Pixels = np.clip(ramp + rng.integers(0, 55, (height, width, 3)), 0, 255).astype(np.uint8)
    return pixels


def image_bytes(image: Image.Image | NDArray[Any], kind: str = "JPEG", **options: Any) -> bytes:
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_claiming(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"")) + png_chunk(b"IEND", b"")


def png16(values: NDArray[np.uint16], clear: Sequence[int] | None = None) -> bytes:
    """A PNG of 16 bits of (H, W, 1..4) values; `clear` is the colour that is transparent."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    key = b"" if clear is None else png_chunk(b"tRNS", struct.pack(f">{channels}H", *clear))
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + key + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def jpeg_claiming(height: int, width: int) -> bytes:
    data = bytearray(image_bytes(make_pixels(0)))
    start = data.index(b"\xff\xc0")
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def wide_profile() -> bytes:
    """The sRGB profile under another name, with the red and green primaries exchanged."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"tmp_").replace(b"gXYZ", b"rXYZ").replace(b"tmp_", b"gXYZ")
    return swapped.replace("sRGB".encode("utf-16-be"), "wide".encode("utf-16-be")).replace(b"sRGB", b"wide")


def make_folder(
    root: Path, count: int = 40, classes: Sequence[str] = ("cat", "dog"), height: int = 48, width: int = 64
) -> Path:
    for number in range(count):
        folder = root / classes[number % len(classes)] if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d}.jpg").write_bytes(image_bytes(make_pixels(number, height, width), quality=90))
    return root


def make_slopes(root: Path, count: int, classes: Sequence[str] = (), channels: int = 3) -> Path:
    """Pictures of 32 px, coloured slopes from top to bottom and from left to right by turns, in a folder each.

    Those of other than 1 or 3 channels are .npy.
    """
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 32)
    for index in range(count):
        low, high = rng.integers(0, 255, (2, channels))
        slope = (ramp[:, None] if index % 2 else ramp[None]).repeat(32, axis=index % 2)[..., None]
        folder = root / classes[index % 2] if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (low + (high - low) * slope).astype(np.uint8)
        if channels in (1, 3):
            Image.fromarray(pixels.squeeze()).save(folder / f"{index:03d}.png")
        else:
            np.save(folder / f"{index:03d}.npy", pixels)
    return root
