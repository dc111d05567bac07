"""Boxes and masks from a COCO file beside or inside a directory of images."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.sources.annotated.boxes import BoxSource, Marked, Photo, box_source, numbered, numbers
from data.sources.annotated.outlines import Outline
from data.sources.source import is_hidden
from swinmim.errors import DataError
from swinmim.outside import Unreadable, one_line, read_regular

_LISTS = ("images", "annotations", "categories")
_LARGEST = 4 << 30  # bytes; COCO's own has half a gigabyte


def read_coco(path: Path, classes: tuple[str, ...] | None = None) -> BoxSource | None:
    """The images at `path` with their objects, masks where all objects have an outline; crowds are marked as such.

    The file: any COCO file inside, NAME.json beside the directory NAME, or annotations/instances_NAME.json there or
    one level up.

    Raises:
        DataError: the file is malformed, names missing images or categories that it does not list, or marks nothing.
    """
    found = next(filter(None, map(_opened, _beside(path))), None)
    if found is None and len(inside := [each for each in map(_opened, _inside(path)) if each]) > 1:
        named = ", ".join(file.name for file, _ in inside)
        raise DataError(f"One COCO file tells of the images of {path}, got {named}. Leave one there.")
    if found is None:
        found = next(iter(inside), None)
    return None if found is None else _source(path, *found, classes)


def _inside(path: Path) -> list[Path]:
    return [file for file in sorted(path.glob("*.json")) if not is_hidden(file.name)]


def _beside(path: Path) -> Iterator[Path]:
    yield path.parent / f"{path.name}.json"
    short = path.name.rstrip("0123456789")
    for folder in (path.parent / "annotations", path.parent.parent / "annotations"):
        for name in dict.fromkeys((path.name, short)):
            yield folder / f"instances_{name}.json"
        yield from sorted(folder.glob(f"instances_{short}[0-9]*.json")) if short == path.name else ()


def _opened(file: Path) -> tuple[Path, dict[str, Any]] | None:
    """A file and what is in it, if that is COCO's.

    Raises DataError: it has a name that only COCO's files have, and cannot be read.
    """
    from pydantic_core import from_json

    if not file.is_file():
        return None
    named = file.name.startswith("instances_") or file.name.endswith(".coco.json")
    try:
        content = from_json(read_regular(file, _LARGEST), allow_inf_nan=False)
    except (OSError, Unreadable, ValueError) as error:
        if not named:
            return None
        raise DataError(f"{file} is no COCO file ({one_line(str(error)[:80])}). Mend it, or take it away.") from error
    if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in _LISTS):
        return file, content
    if named:
        raise DataError(f"A COCO file has lists of {', '.join(_LISTS)}; {file} lacks some. Mend it, or take it away.")
    return None


def _source(path: Path, file: Path, content: dict[str, Any], classes: tuple[str, ...] | None) -> BoxSource:
    categories = sorted(_rows(content, "categories", file, {"id": int, "name": str}), key=lambda row: int(row["id"]))
    images = _rows(content, "images", file, {"id": int, "file_name": str, "width": int, "height": int})
    rows = _rows(content, "annotations", file, {"image_id": int, "category_id": int, "bbox": list})
    known, order = numbered([row["name"] for row in categories], classes, str(file))
    number = {row["id"]: label for row, label in zip(categories, order, strict=True)}
    ids = {row["id"] for row in images}
    if len(ids) != len(images) or len({row["file_name"] for row in images}) != len(images):
        raise DataError(f"Every image has an id and a file of its own; {file} has some twice. Take one out.")
    objects: dict[int, list[Marked]] = defaultdict(list)
    for n, row in enumerate(rows):
        where = f"Annotation {row.get('id', n)} of {file}"
        if row["category_id"] not in number:
            raise DataError(f"{where} has category {row['category_id']}, which is not listed. Add it to categories.")
        if row["image_id"] not in ids:
            raise DataError(f"{where} is for image {row['image_id']}, which is not listed. Add it to images.")
        box = numbers(row["bbox"], 4, f"The bbox of {where[0].lower() + where[1:]}")
        outline = _outline(row.get("segmentation"), where)
        objects[row["image_id"]].append(Marked(number[row["category_id"]], box, bool(row.get("iscrowd")), outline))
    names = [row["file_name"] for row in images]
    if outside := next((name for name in names if Path(name).is_absolute() or ".." in Path(name).parts), None):
        raise DataError(f"Images lie below {path}; {file} names {outside}. Give names relative to it.")
    root = next((r for r in (path, path / "images") if names and (r / names[0]).is_file()), path)
    photos = [Photo(row["file_name"], (row["height"], row["width"]), objects[row["id"]]) for row in images]
    return box_source(root, photos, known, str(file))


def _rows(content: dict[str, Any], key: str, file: Path, kinds: dict[str, type]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = content[key]
    for n, row in enumerate(rows):
        for name, kind in kinds.items():
            if not isinstance(row, dict) or type(row.get(name)) is not kind:
                raise DataError(f"Row {n} of {key} in {file} has no {name} of the type {kind.__name__}. Mend it.")
    return rows


def _outline(value: Any, where: str) -> Outline | None:
    """Checked in form; None where there is none."""
    if isinstance(value, dict):
        size, counts = value.get("size"), value.get("counts")
        if isinstance(counts, str | list) and isinstance(size, list) and len(size) == 2:
            return {"size": size, "counts": counts}
        raise DataError(f"{where} has runs without size and counts. Mend it, or empty its segmentation.")
    if not isinstance(value, list) or not value:
        return None
    polygons = [numbers(polygon, None, f"A polygon of {where}") for polygon in value]
    if any(len(polygon) < 6 or len(polygon) % 2 for polygon in polygons):
        raise DataError(f"{where} has a polygon without x and y of three corners. Mend it, or empty its segmentation.")
    return polygons
