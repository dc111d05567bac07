"""Boxes, or polygons, from YOLO's text files: one for each image, a line for each object, in shares of its sides."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.codecs.decode import DecodeError
from data.sources.annotated.boxes import BoxSource, Marked, Photo, box_source, numbered, undamaged
from data.sources.source import is_hidden, not_an_image
from swinmim.errors import DataError
from swinmim.outside import Unreadable, one_line, read_regular

_LARGEST = 4 << 20  # bytes
_NAMES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")


def read_yolo(path: Path, classes: tuple[str, ...] | None = None) -> BoxSource | None:
    """The images at `path` with their objects: `class x y width height`, centre and size, or `class x y x y x y ...`.

    The text lies in labels/ where the images lie in images/ (also labels/train for images/train), or beside the
    images. Names are those of data.yaml or classes.txt there or above, else numbers. An image without text shows none
    of the objects.

    Raises:
        DataError: a malformed line, a text without its image, or nothing marked.
    """
    for root, texts in _places(path):
        if not root.is_dir() or not texts.is_dir():
            continue
        images = sorted(f.name for f in root.iterdir() if not_an_image(f.name) is None and not is_hidden(f.name))
        files = {file.stem: file for file in sorted(texts.glob("*.txt")) if file.name not in _NAMES}
        held = [files[stem] for stem in map(_stem, images) if stem in files]
        if held and (texts != root or _looks_like(held)):
            return _source(root, images, files, classes)
    return None


def _places(path: Path) -> list[tuple[Path, Path]]:
    places = [(path / "images", path / "labels")]
    if path.parent.name == "images":
        places.append((path, path.parent.parent / "labels" / path.name))
    if path.name == "images":
        places.append((path, path.parent / "labels"))
    return [*places, (path, path)]


def _stem(name: str) -> str:
    return Path(name).stem


def _looks_like(files: Sequence[Path]) -> bool:
    """Whether the first text that says anything has a class and numbers: captions lie beside images too."""
    for file in files[:64]:
        words = _lines(file)[:1]
        if words:
            return len(words[0]) >= 5 and words[0][0].isdigit() and all(map(_is_number, words[0]))
    return False


def _is_number(word: str) -> bool:
    try:
        return math.isfinite(float(word))
    except ValueError:
        return False


def _lines(file: Path) -> list[list[str]]:
    try:
        return [line.split() for line in undamaged(read_regular(file, _LARGEST)).splitlines() if line.strip()]
    except (OSError, Unreadable, DecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}). Mend it, or take it away.") from error


def _source(root: Path, images: Sequence[str], files: dict[str, Path], classes: tuple[str, ...] | None) -> BoxSource:
    texts = next(iter(files.values())).parent
    if (lost := sorted(files.keys() - set(map(_stem, images)))) and texts != root:
        raise DataError(f"{files[lost[0]]} has no image in {root}. Put it there, or take the text away.")
    objects = {
        n: [_object(files[_stem(n)], line) for line in _lines(files[_stem(n)])] for n in images if _stem(n) in files
    }
    most = max((each.label for held in objects.values() for each in held), default=-1)
    names = _class_names(texts)
    if names is not None and most >= len(names[1]):
        raise DataError(f"{texts} has class {most}, and {names[0]} names {len(names[1])} from 0 on. Name them all.")
    if names is None and most > 10_000:
        raise DataError(f"{texts} has class {most}. Number the classes from 0, or name them all in classes.txt.")
    known, order = numbered(names[1] if names else [str(n) for n in range(most + 1)], classes, str(texts))
    photos = [
        Photo(name, None, [Marked(order[m.label], m.box, m.crowd, m.outline) for m in objects.get(name, [])])
        for name in images
    ]
    bare = sum(name not in objects for name in images)
    notes = [f"{bare:,} images without a text, and so without objects"] if bare else []
    return box_source(root, photos, known, str(texts), notes)


def _object(file: Path, words: Sequence[str]) -> Marked:
    whole = words[0].removesuffix(".0")
    polygon = len(words) >= 7 and len(words) % 2 == 1
    number = whole.isascii() and whole.isdigit()
    if not (number and (len(words) == 5 or polygon) and all(map(_is_number, words))):
        raise DataError(
            f"A line of YOLO is a class number and x, y, width, height, or a polygon; {file} has"
            f" {one_line(' '.join(words)[:60])!r}. Mend it."
        )
    label, values = int(whole), [float(word) for word in words[1:]]
    if not polygon:
        x, y, w, h = values
        return Marked(label, (x - w / 2, y - h / 2, w, h))
    xs, ys = values[::2], values[1::2]
    return Marked(label, (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)), outline=[values])


def _class_names(texts: Path) -> tuple[Path, list[str]] | None:
    """The file with the names, and these; looked for beside the texts, and in the three folders above."""
    for folder in (texts, *list(texts.parents)[:3]):
        for file in (folder / name for name in _NAMES):
            if file.is_file():
                found = _from_yaml(file) if file.suffix == ".yaml" else [" ".join(words) for words in _lines(file)]
                if found is not None:
                    return file, found
    return None


def _from_yaml(file: Path) -> list[str] | None:
    import yaml

    try:
        content: Any = yaml.safe_load(undamaged(read_regular(file, _LARGEST)))
    except (OSError, Unreadable, DecodeError, yaml.YAMLError) as error:
        raise DataError(f"{file} is no YAML ({one_line(str(error)[:80])}). Mend it, or take it away.") from error
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[n] for n in range(len(names))]
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str | int) for name in names):
        raise DataError(f"names is a list, or has a name for each number from 0 on; {file} has neither. Mend it.")
    return [str(name) for name in names]
