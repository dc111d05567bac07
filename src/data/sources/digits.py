"""The built-in set: the 1,797 handwritten digits that come with scikit-learn, as a labelled shard set.

Real scans (Optical Recognition of Handwritten Digits, UCI, E. Alpaydin and C. Kaynak 1998), 8x8 pixels with values
0..16. They make a first run possible without a download; they prove that the road works, not how well.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.sources.source import Item, Source

DIGITS = "builtin:digits"
"""What it is called."""
SIDE = 32
CLASSES = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, kw_only=True)
class DigitsSource(Source):
    """The digits as images; `scans` is uint8 (N, 8, 8) with values 0..255."""

    scans: NDArray[np.uint8]

    def load(self, position: int) -> bytes:
        image = Image.fromarray(self.scans[position]).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
        out = io.BytesIO()
        image.save(out, "PNG")
        return out.getvalue()


def read_digits() -> DigitsSource:
    """Load the scans that scikit-learn bundles; needs no network."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    scans = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    items = [Item(f"digit-{n:04d}", int(label), 64, 0) for n, label in enumerate(bunch.target)]
    return DigitsSource(items=items, classes=CLASSES, scans=scans)
