"""What a sample is to be learnt from, beside one class number: a member of the tar next to the image.

labels.json holds the sorted numbers of the labels that apply, value.json a list of numbers, mask.png a grey 8-bit PNG
with a class for each pixel, boxes.json {"boxes": [[x, y, width, height], ...] in pixels, "labels": [...], and maybe
"crowd": [0 or 1, ...] and "masks": {"size": [height, width], "counts": [[run, ...], ...]}}, runs as in COCO: column by
column, background first.
"""

import io
import json
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.codecs.decode import MAX_PIXELS, read_header
from data.codecs.parsers import DecodeError, parsing
from data.codecs.png import is_png

TargetKind = Literal["labels", "value", "mask", "boxes"]
"""labels: any number of classes; value: numbers; mask: a class for each pixel; boxes: objects and where they are."""

Needs = Literal["nothing", "label", "clip"] | TargetKind
"""What a task is taught with: nothing, one class for each image, a clip and its class instead, or a target."""

WITHOUT_TARGET: tuple[Needs, ...] = ("nothing", "label", "clip")
"""What no member of a tar beside the image is asked for."""

MEMBERS: dict[TargetKind, str] = {
    "labels": "labels.json",
    "value": "value.json",
    "mask": "mask.png",
    "boxes": "boxes.json",
}
"""What the member is called, after the key."""

IGNORED = 255
"""In a mask: the pixel has no class."""

_MAX_JSON = 8 << 20  # bytes
_MAX_BOXES = 10_000
_MAX_PLACE = 2**24  # pixels; float32 holds every whole number up to here


@dataclass(frozen=True)
class Boxes:
    """The objects of an image.

    boxes: float32 (N, 4): left, top, width, height, in pixels; width and height are above 0.
    labels: int64 (N,), the class of each.
    crowd: bool (N,), where a box is around many objects that are not told apart.
    masks: bool (N, H, W), True inside of the object; None where there are none.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    masks: NDArray[np.bool_] | None = None


Target = NDArray[np.bool_] | NDArray[np.float32] | NDArray[np.uint8] | Boxes


@overload
def decode_target(
    kind: Literal["labels"], data: bytes, classes: int, max_pixels: int = MAX_PIXELS
) -> NDArray[np.bool_]: ...
@overload
def decode_target(
    kind: Literal["value"], data: bytes, classes: int, max_pixels: int = MAX_PIXELS
) -> NDArray[np.float32]: ...
@overload
def decode_target(
    kind: Literal["mask"], data: bytes, classes: int, max_pixels: int = MAX_PIXELS
) -> NDArray[np.uint8]: ...
@overload
def decode_target(kind: Literal["boxes"], data: bytes, classes: int, max_pixels: int = MAX_PIXELS) -> Boxes: ...
@overload
def decode_target(kind: TargetKind, data: bytes, classes: int, max_pixels: int = MAX_PIXELS) -> Target: ...
def decode_target(kind: TargetKind, data: bytes, classes: int, max_pixels: int = MAX_PIXELS) -> Target:
    """The target in a member of a tar.

    Args:
        kind, data: the member.
        classes: how many names the set has: of labels, of columns of values, of classes.
        max_pixels: of a mask, and of all those of an image together.

    Returns:
        labels: bool (classes,); value: float32 (classes,); mask: uint8 (H, W), a class or `IGNORED`; boxes: `Boxes`.

    Raises:
        DecodeError: damaged, too large, of another form, or with a class that there is not.
    """
    match kind:
        case "labels":
            return _labels(_parsed(data), classes)
        case "value":
            return _values(_parsed(data), classes)
        case "mask":
            return _mask(data, classes, max_pixels)
        case "boxes":
            return _boxes(_parsed(data), classes, max_pixels)


def encode_target(kind: TargetKind, target: Target, classes: int) -> bytes:
    """The member for a target of the form that `decode_target` gives.

    Raises:
        DecodeError: `decode_target` would not take it.
    """
    match kind, target:
        case "labels", np.ndarray(dtype=np.bool_, shape=(number,)) if number == classes:
            data = _json(np.flatnonzero(target).tolist())
        case "value", np.ndarray(dtype=np.float32, ndim=1):
            data = _json([_short(number) for number in target])
        case "mask", np.ndarray(dtype=np.uint8, ndim=2):
            out = io.BytesIO()
            Image.fromarray(target).save(out, "PNG")
            data = out.getvalue()
        case "boxes", Boxes():
            data = _json(_fields(target))
        case _:
            form = f"{target.dtype} {target.shape}" if isinstance(target, np.ndarray) else type(target).__name__
            raise DecodeError(f"{form} is no target of the kind {kind} with {classes} classes")
    pixels = target.masks if isinstance(target, Boxes) else target
    decode_target(kind, data, classes, _limit(() if pixels is None else pixels.shape[-2:]))
    return data


def _limit(shape: tuple[int, ...]) -> int:
    """Pixels of a mask beside an image of this shape, which may have been allowed more than others."""
    return max(MAX_PIXELS, math.prod(shape))


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _short(number: Any) -> float:
    """The shortest decimal that is the same float32."""
    return float(str(np.float32(number)))


def _fields(target: Boxes) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "boxes": [[_short(number) for number in box] for box in target.boxes],
        "labels": target.labels.tolist(),
    }
    if target.crowd.any():
        fields["crowd"] = target.crowd.astype(int).tolist()
    if target.masks is not None:
        fields["masks"] = {"size": target.masks.shape[1:], "counts": [runs_of(mask) for mask in target.masks]}
    return fields


def runs_of(mask_HW: NDArray[np.bool_]) -> list[int]:
    """Lengths of the runs of a mask as in COCO: column by column, background first."""
    pixels = mask_HW.ravel(order="F")
    edges = [0, *(np.flatnonzero(pixels[1:] != pixels[:-1]) + 1).tolist(), len(pixels)]
    runs = [end - begin for begin, end in pairwise(edges)]
    return [0, *runs] if pixels[:1].any() else runs


def _parsed(data: bytes) -> Any:
    if len(data) > _MAX_JSON:
        raise DecodeError(f"{len(data)} bytes exceed the limit of {_MAX_JSON} for a target")
    try:
        return json.loads(data, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"no JSON ({type(error).__name__})") from error


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _whole(value: object, what: str, least: int, below: int) -> list[int]:
    """A list of whole numbers in a range."""
    if not isinstance(value, list) or not all(type(number) is int and least <= number < below for number in value):
        raise DecodeError(f"{what} must be a list of whole numbers from {least} to {below - 1}")
    return value


def _labels(value: object, classes: int) -> NDArray[np.bool_]:
    numbers = _whole(value, "labels", 0, classes)
    if any(one >= other for one, other in pairwise(numbers)):
        raise DecodeError("labels must rise, each named once")
    labels = np.zeros(classes, np.bool_)
    labels[numbers] = True
    return labels


def _values(value: object, columns: int) -> NDArray[np.float32]:
    if not isinstance(value, list) or len(value) != columns:
        raise DecodeError(f"a value must be a list of {columns} numbers")
    return _floats(value)


def _floats(numbers: list[Any]) -> NDArray[np.float32]:
    if not all(type(number) in (int, float) for number in numbers):
        raise DecodeError("values must be numbers")
    most = _short(np.finfo(np.float32).max)
    if not all(-most <= number <= most for number in numbers):  # whole numbers of JSON have any length
        raise DecodeError(f"values must be finite and at most {most:.3g}")
    return np.array([float(number) for number in numbers], np.float32)


def _mask(data: bytes, classes: int, max_pixels: int) -> NDArray[np.uint8]:
    if not is_png(data):
        raise DecodeError("a mask must be a PNG")
    image = read_header(data, max_pixels)
    if image.mode != "L" or data[24:26] != b"\x08\x00":
        raise DecodeError(f"a mask must be a grey PNG of 8 bits, got {image.mode} of {data[24]}")
    with parsing("damaged pixels"):
        pixels: NDArray[np.uint8] = np.array(image)
    wrong = pixels[(pixels >= classes) & (pixels != IGNORED)]
    if wrong.size:
        raise DecodeError(f"the mask holds class {wrong[0]} of {classes}")
    return pixels


def _boxes(value: object, classes: int, max_pixels: int) -> Boxes:
    if not isinstance(value, dict) or not {"boxes", "labels"} <= set(value) <= {"boxes", "labels", "crowd", "masks"}:
        raise DecodeError("boxes must hold boxes and labels, and at most crowd and masks")
    rows, labels = value["boxes"], _whole(value["labels"], "labels", 0, classes)
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 4 for row in rows):
        raise DecodeError("boxes must be lists of x, y, width and height")
    if len(rows) > _MAX_BOXES:
        raise DecodeError(f"{len(rows)} boxes exceed the limit of {_MAX_BOXES}")
    crowd = _whole(value.get("crowd", [0] * len(rows)), "crowd", 0, 2)
    if not len(rows) == len(labels) == len(crowd):
        raise DecodeError(f"{len(rows)} boxes have {len(labels)} labels and {len(crowd)} marks of a crowd")
    boxes = _floats([number for row in rows for number in row]).reshape(-1, 4)
    if (np.abs(boxes) > _MAX_PLACE).any() or (boxes[:, 2:] <= 0).any():
        raise DecodeError(f"boxes must have a width and height above 0, and lie within {_MAX_PLACE} pixels")
    masks = _masks(value["masks"], len(rows), max_pixels) if "masks" in value else None
    return Boxes(boxes, np.array(labels, np.int64), np.array(crowd, np.bool_), masks)


def _masks(value: object, number: int, max_pixels: int) -> NDArray[np.bool_]:
    if not isinstance(value, dict) or set(value) != {"size", "counts"}:
        raise DecodeError("masks must hold size and counts")
    size, counts = _whole(value["size"], "the size of masks", 1, _MAX_PLACE), value["counts"]
    if len(size) != 2 or not isinstance(counts, list) or len(counts) != number:
        raise DecodeError(f"masks must have a height, a width and runs for each of {number} boxes")
    area = size[0] * size[1]
    if area * number > max_pixels:
        raise DecodeError(f"{number} masks of {size[0]}x{size[1]} exceed {max_pixels} pixels")
    masks = np.empty((number, *size), np.bool_)
    for mask, runs in zip(masks, counts, strict=True):
        lengths = _whole(runs, "the runs of a mask", 0, area + 1)
        if sum(lengths) != area:
            raise DecodeError(f"the runs of a mask cover {sum(lengths)} of {area} pixels")
        mask[:] = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(size, order="F")
    return masks


def checked_target(kind: TargetKind, data: bytes, classes: int, shape: tuple[int, ...]) -> Target:
    """`decode_target` of the member beside an image of `shape` (height, width).

    Raises:
        DecodeError: it is malformed, or of another size than the image.
    """
    target = decode_target(kind, data, classes, _limit(shape))
    pixels = target.masks if isinstance(target, Boxes) else target if kind == "mask" else None
    if pixels is not None and pixels.shape[-2:] != shape:
        (height, width), (high, wide) = pixels.shape[-2:], shape
        raise DecodeError(f"its mask has {width}x{height} pixels, the image {wide}x{high}")
    return target
