"""Images for the tests: noise over gradients, made here, never stored in the repository."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def make_pixels(number, height=48, width=64):
    rng = np.random.default_rng(number)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.array([1.0, 0.5, 0.2])
    return np.clip(ramp + rng.integers(0, 55, (height, width, 3)), 0, 255).astype(np.uint8)


def image_bytes(image, kind="JPEG", **options):
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, kind, **options)
    return out.getvalue()


def make_folder(root: Path, count=40, classes=("cat", "dog"), height=48, width=64):
    for number in range(count):
        folder = root / classes[number % len(classes)] if classes else root
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number:04d}.jpg").write_bytes(image_bytes(make_pixels(number, height, width), quality=90))
    return root
