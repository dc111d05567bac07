"""Objects as people mark them in files, brought to one form: a box each, and an outline where all have one."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.codecs.decode import DecodeError, read_header
from data.codecs.orientation import orientation
from data.codecs.targets import Boxes, encode_target
from data.sources.annotated.outlines import Outline, check_library, filled
from data.sources.source import FileSource, Item
from swinmim.errors import DataError
from swinmim.outside import one_line

_SPARED = 0.01  # share of boxes without area that published sets have too; COCO has two
_SHOWN = 3


@dataclass(frozen=True)
class Marked:
    """An object. box: left, top, width, height. crowd: around many objects, or one that is not to be judged."""

    label: int
    box: Sequence[float]
    crowd: bool = False
    outline: Outline | None = None


@dataclass(frozen=True)
class Photo:
    """name: of its file, from the root. size: (height, width) that the boxes are in; None: boxes are shares of it."""

    name: str
    size: tuple[int, int] | None
    objects: Sequence[Marked]


@dataclass(frozen=True, kw_only=True)
class BoxSource(FileSource):
    """Photos with objects."""

    def load_target(self, position: int) -> bytes:
        """Raises OSError, also where the image has another size than its boxes were drawn in; DecodeError."""
        told = json.loads(self.items[position].target)
        size = _upright_size(self.load(position))
        if told["size"] is not None and tuple(told["size"]) != size:
            high, wide = told["size"]
            raise OSError(f"its boxes are for {wide}x{high} pixels, it has {size[1]}x{size[0]} (turned by EXIF?)")
        unit = (1, 1, 1, 1) if told["size"] else (size[1], size[0], size[1], size[0])
        boxes = np.array(told["boxes"], np.float64).reshape(-1, 4) * unit
        masks = None
        if "outlines" in told:
            scale = (1.0, 1.0) if told["size"] else (float(size[1]), float(size[0]))
            shapes = told["outlines"]
            masks = np.zeros((len(boxes), *size), np.bool_)
            for mask, outline, box in zip(masks, shapes, boxes, strict=True):
                mask[:] = filled(outline if outline is not None else _corners(box), size, scale if outline else (1, 1))
        crowd, labels = np.array(told["crowd"], np.bool_), np.array(told["labels"], np.int64)
        return encode_target("boxes", Boxes(boxes.astype(np.float32), labels, crowd, masks), len(self.classes))


def _corners(box: Sequence[float]) -> list[list[float]]:
    x, y, w, h = map(float, box)
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def _upright_size(data: bytes) -> tuple[int, int]:
    image = read_header(data)
    wide, high = image.size
    return (wide, high) if orientation(image) >= 5 else (high, wide)


def box_source(
    root: Path, photos: Sequence[Photo], classes: tuple[str, ...], where: str, notes: Sequence[str] = ()
) -> BoxSource:
    """The photos below `root` as a source. Boxes are cut to their image; a few without area in it are left out.

    where: what holds the boxes, for messages.

    Raises:
        DataError: files that are missing; nothing is marked anywhere; or many boxes without area.
    """
    items, missing = [], []
    empty: list[str] = []
    marked = 0
    outlined = all(each.outline or each.crowd for photo in photos for each in photo.objects)
    if outlined:
        check_library(each.outline for photo in photos for each in photo.objects)
    for photo in sorted(photos, key=lambda photo: photo.name):
        try:
            stat = os.stat(root / photo.name)
        except OSError:
            missing.append(photo.name)
            continue
        objects = []
        for each in photo.objects:
            box = _within(each.box, photo.size or (1, 1))
            if box is None:
                empty.append(f"{list(each.box)} in {photo.name}")
            else:
                objects.append((each, box))
        marked += len(objects)
        told: dict[str, Any] = {
            "size": photo.size,
            "boxes": [box for _, box in objects],
            "labels": [each.label for each, _ in objects],
            "crowd": [int(each.crowd) for each, _ in objects],
        }
        if outlined:
            told["outlines"] = [each.outline for each, _ in objects]
        items.append(Item(photo.name, -1, stat.st_size, stat.st_mtime_ns, json.dumps(told, separators=(",", ":"))))
    if missing:
        raise DataError(
            f"{where} names {len(missing):,} of {len(photos):,} images that are not in {root}"
            f" ({_some(missing)}). Put them there, or take them out of it."
        )
    if not marked:
        raise DataError(
            f"Some image has a box; {where} has none{' with an area' if empty else ''} for {len(photos):,} images."
            " Mark the objects, or give the file that has them."
        )
    if len(empty) > max(1, _SPARED * (marked + len(empty))):
        raise DataError(
            f"A box lies in its image and has a width and a height; {where} has {len(empty):,} of"
            f" {marked + len(empty):,} that do not ({_some(empty)}). Mend them, or take them out."
        )
    told_of = [f"{len(empty)} without area left out: {_some(empty)}"] if empty else []
    held = f"{marked:,} boxes{' with masks' if outlined else ''}, {where}"
    return BoxSource(
        items=items,
        classes=classes,
        notes=tuple(map(one_line, [held, *notes, *told_of])),
        target="boxes",
        root=root,
    )


def _within(box: Sequence[float], size: tuple[int, int]) -> tuple[float, ...] | None:
    """What of a box is in the image; None for nothing."""
    x, y, w, h = map(float, box)
    if not all(map(math.isfinite, (x, y, w, h))) or w <= 0 or h <= 0:
        return None
    left, top, right, bottom = max(0.0, x), max(0.0, y), min(x + w, size[1]), min(y + h, size[0])
    if right <= left or bottom <= top:
        return None
    inside = (left, top, right, bottom) == (x, y, x + w, y + h)  # whose numbers then stay as they are written
    return (x, y, w, h) if inside else (left, top, right - left, bottom - top)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def numbers(value: Any, count: int | None, where: str) -> list[float]:
    """So many finite numbers, or any number of them. Raises DataError."""
    if (
        not isinstance(value, list)
        or not all(type(number) in (int, float) and math.isfinite(number) for number in value)
        or (count is not None and len(value) != count)
    ):
        raise DataError(f"{where} must be {count or 'a list of'} finite numbers, got {one_line(repr(value)[:60])}.")
    return value


def numbered(names: Sequence[str], classes: tuple[str, ...] | None, where: str) -> tuple[tuple[str, ...], list[int]]:
    """The classes of a set, and the number of each of its `names` in them; those of training where they are known.

    Raises DataError: a name is there twice, or training lacks it.
    """
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"Every class has a name of its own; {where} has {one_line(twice)} twice. Rename one.")
    if classes is None:
        return tuple(names), list(range(len(names)))
    number: Mapping[str, int] = {name: n for n, name in enumerate(classes)}
    if unknown := [name for name in names if name not in number]:
        raise DataError(f"Every split must have the same classes; {where} has {_some(unknown)}, which training lacks.")
    return classes, [number[name] for name in names]


def undamaged(data: bytes) -> str:
    """Text of a file of marks. Raises DecodeError."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DecodeError("no UTF-8") from error
