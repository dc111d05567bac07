"""Outlines of objects -> masks: polygons, and the runs of COCO."""

from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.codecs.decode import DecodeError
from swinmim.errors import DataError

Outline = list[Any] | dict[str, Any]
"""Polygons, [[x, y, x, y, ...], ...]; or runs, {"size": [height, width], "counts": numbers or COCO's short text}."""


def filled(outline: Outline, size: tuple[int, int], scale: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.bool_]:
    """The mask, bool (height, width), of an outline; `scale` is that of the polygons' (x, y) in pixels.

    Polygons are filled as the COCO tools do it.

    Raises DecodeError: the runs are for another size, or do not cover it.
    """
    if isinstance(outline, dict):
        return _from_runs(outline, size)
    from faster_coco_eval.core import mask as coco_masks

    (height, width), mask = size, np.zeros(size, np.bool_)
    for polygon in outline:
        corners = np.array(polygon, np.float64).reshape(-1, 2) * scale
        inside = np.clip(corners, 0, (width, height))  # the tools need memory for every pixel that a side passes
        mask |= coco_masks.decode(coco_masks.frPyObjects([inside.ravel().tolist()], height, width))[..., 0].astype(bool)
    return mask


def check_library(outlines: Iterable[Outline | None]) -> None:
    """Raises DataError: there are polygons, and what fills them is not installed."""
    if any(isinstance(outline, list) for outline in outlines) and not find_spec("faster_coco_eval"):
        raise DataError("Outlines of objects need faster-coco-eval: pip install 'swinmim[detect]'.")


def _from_runs(runs: dict[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    height, width = size
    counts = _lengths(runs["counts"]) if isinstance(runs["counts"], str) else runs["counts"]
    fits = all(type(count) is int and 0 <= count <= height * width for count in counts)
    if tuple(runs["size"]) != size or not fits or sum(counts) != height * width:
        raise DecodeError(f"the runs of a mask do not cover its {width}x{height} pixels")
    inside = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return inside.reshape(size, order="F")


def _lengths(text: str) -> Sequence[int]:
    """COCO's short text: groups of 5 bits from character 48 on, a sixth says that more follow; from the third number on
    the difference to the last but one (cocoapi, maskApi.c, rleFrString)."""
    found: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            if shift > 40:
                raise DecodeError("the short text of a mask has a number of more than 40 bits")
            continue
        if bits & 16:
            value -= 1 << shift
        found.append(value + found[-2] if len(found) > 2 else value)
        value = shift = 0
    return found
