"""The built-in set: the 1,797 handwritten digits that come with scikit-learn, with whatever a task is taught with.

Real scans (Optical Recognition of Handwritten Digits, UCI, E. Alpaydin and C. Kaynak 1998), 8x8 pixels with values
0..16. They make a first run possible without a download; they prove that the road works, not how well.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.codecs.targets import Boxes, Needs, Target, TargetKind, encode_target
from data.sources.source import Item, Source

DIGITS = "builtin:digits"
"""What it is called."""
SIDE = 32
CLASSES = tuple(str(digit) for digit in range(10))
NAMES: dict[TargetKind, tuple[str, ...]] = {
    "labels": (*CLASSES, "even", "loop"),
    "value": ("ink", "slant"),
    "mask": ("background", *CLASSES),
    "boxes": CLASSES,
}
"""labels: the digit, whether it is even, whether it is drawn around a hole (0, 6, 8, 9). value: the share of the square
that is ink, and how far the digit leans to the right for each pixel of its height. mask: where more than half is ink.
boxes: around that, with it as the outline."""
_LOOPED = (0, 6, 8, 9)
_INKED = 127


@dataclass(frozen=True, kw_only=True)
class DigitsSource(Source):
    """The digits as images; `scans` is uint8 (N, 8, 8) with values 0..255, `digits` int64 (N,)."""

    scans: NDArray[np.uint8]
    digits: NDArray[np.int64]

    def load(self, position: int) -> bytes:
        image = self._drawn(position).convert("RGB")
        out = io.BytesIO()
        image.save(out, "PNG")
        return out.getvalue()

    def load_target(self, position: int) -> bytes:
        if self.target is None:
            return b""
        ink_HW = np.asarray(self._drawn(position))
        target = digit_target(self.target, int(self.digits[position]), ink_HW)
        return encode_target(self.target, target, len(self.classes))

    def _drawn(self, position: int) -> Image.Image:
        return Image.fromarray(self.scans[position]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def digit_target(kind: TargetKind, digit: int, ink_HW: NDArray[np.uint8]) -> Target:
    """What there is to learn of a picture of a digit, white (255) on black; see `NAMES`."""
    inside_HW = ink_HW > _INKED
    match kind:
        case "labels":
            return np.array([*(digit == each for each in range(10)), digit % 2 == 0, digit in _LOOPED], np.bool_)
        case "value":
            return np.array([ink_HW.mean() / 255, _slant(ink_HW)], np.float32)
        case "mask":
            return np.where(inside_HW, digit + 1, 0).astype(np.uint8)
        case "boxes":
            rows, columns = np.nonzero(inside_HW)
            left, top = columns.min(), rows.min()
            box = np.array([[left, top, columns.max() + 1 - left, rows.max() + 1 - top]], np.float32)
            return Boxes(box, np.array([digit], np.int64), np.zeros(1, np.bool_), inside_HW[None])


def _slant(ink_HW: NDArray[np.uint8]) -> float:
    """The line through the rows' centres of mass, weighted by their ink: columns to the right for each row upwards."""
    rows, columns = np.indices(ink_HW.shape)
    down, right = (places - np.average(places, weights=ink_HW) for places in (rows, columns))
    return float(-(ink_HW * down * right).sum() / (ink_HW * down**2).sum())


def read_digits(needs: Needs = "nothing") -> DigitsSource:
    """Load the scans that scikit-learn bundles, with the targets that are needed; needs no network. They are no clips,
    whoever needs these."""
    from sklearn.datasets import load_digits  # takes a second to import

    bunch = load_digits()
    scans = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    kind = target_of(needs)
    digits = bunch.target.astype(np.int64)
    items = [Item(f"digit-{n:04d}", -1 if kind else int(digit), 64, 0) for n, digit in enumerate(digits)]
    return DigitsSource(items=items, classes=NAMES[kind] if kind else CLASSES, target=kind, scans=scans, digits=digits)


def target_of(needs: Needs) -> TargetKind | None:
    """What lies beside each digit for a task with these needs."""
    return needs if needs in NAMES else None
