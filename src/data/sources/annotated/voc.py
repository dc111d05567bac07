"""Boxes from Pascal VOC's XML files, one for each image."""

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from data.sources.annotated.boxes import BoxSource, Marked, Photo, box_source, numbered
from data.sources.source import is_hidden, not_an_image
from swinmim.errors import DataError
from swinmim.outside import Unreadable, one_line, read_regular

_PLACES = (("JPEGImages", "Annotations"), ("images", "annotations"), ("images", "annots"), (".", "."))
_LARGEST = 4 << 20  # bytes


def read_voc(path: Path, classes: tuple[str, ...] | None = None) -> BoxSource | None:
    """The images at `path` with their objects; those marked difficult are crowds, not learnt and not judged.

    Images in JPEGImages and XML in Annotations; images and annotations (or annots); or both in one folder. Corners are
    pixels counted from 1, the last one inside. An image without XML is left out, as nobody has looked at it.

    Raises:
        DataError: a malformed file, an XML without its image, or nothing marked.
    """
    for photos_at, marks_at in _PLACES:
        if (path / photos_at).is_dir() and (path / marks_at).is_dir():
            files = [file for file in sorted((path / marks_at).glob("*.xml")) if not is_hidden(file.name)]
            if files and _parsed(files[0]).tag == "annotation":
                return _source(path / photos_at, files, classes)
    return None


def _source(root: Path, files: list[Path], classes: tuple[str, ...] | None) -> BoxSource:
    names = [file.name for file in sorted(root.iterdir()) if not_an_image(file.name) is None]
    photo_of = {Path(name).stem: name for name in names if not is_hidden(name)}
    marked = {file: list(_objects(file, _parsed(file))) for file in files}
    found = sorted({name for objects in marked.values() for name, _, _ in objects})
    known, order = numbered(found, classes, str(files[0].parent))
    number = dict(zip(found, order, strict=True))
    photos = [
        Photo(
            photo_of.get(file.stem, f"{file.stem}.jpg"),
            _size(file),
            [Marked(number[name], box, difficult) for name, box, difficult in objects],
        )
        for file, objects in marked.items()
    ]
    bare = len(photo_of.keys() - {file.stem for file in files})
    notes = [f"{bare:,} images without XML left out"] if bare else []
    return box_source(root, photos, known, str(files[0].parent), notes)


def _parsed(file: Path) -> ElementTree.Element:
    try:
        data = read_regular(file, _LARGEST)
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:  # which may unfold to any length
            raise Unreadable("declares entities")
        return ElementTree.fromstring(data)
    except (OSError, Unreadable, ElementTree.ParseError) as error:
        raise DataError(
            f"{file} is no XML of Pascal VOC ({one_line(str(error))}). Mend it, or take it away."
        ) from error


def _size(file: Path) -> tuple[int, int]:
    tree = _parsed(file)
    height, width = (_number(file, tree, f"size/{side}") for side in ("height", "width"))
    if min(height, width) < 1:
        raise DataError(f"{file} says that its image has {width:g}x{height:g} pixels. Write its size there.")
    return int(height), int(width)


def _objects(file: Path, tree: ElementTree.Element) -> Iterator[tuple[str, tuple[float, ...], bool]]:
    for each in tree.iter("object"):
        name = (each.findtext("name") or "").strip()
        if not name:
            raise DataError(f"Every object has a name; {file} has one without. Name it, or take it out.")
        left, top, right, bottom = (_number(file, each, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax"))
        box = left - 1, top - 1, right - left + 1, bottom - top + 1
        yield name, box, (each.findtext("difficult") or "").strip() == "1"


def _number(file: Path, tree: ElementTree.Element, key: str) -> float:
    text = tree.findtext(key)
    try:
        return float(text or "")
    except ValueError as error:
        raise DataError(f"{key} is a number; {file} has {one_line(repr(text)[:40])}. Mend it.") from error
