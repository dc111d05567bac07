"""Images named in a list: CSV, TSV, JSON lines or parquet with a column path and maybe label, labels or mask."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.codecs.targets import IGNORED, TargetKind
from data.sources.annotated.pairs import CLASSES, paired
from data.sources.labels import label_targets, label_text, label_texts, number_labels
from data.sources.masks import masks_among, read_head
from data.sources.source import FileSource, Item, not_an_image
from swinmim.errors import DataError
from swinmim.outside import one_line

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def _rows(path: Path) -> Iterable[dict[Any, Any]]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        try:
            from pyarrow import parquet  # an extra
        except ImportError as error:
            raise DataError("Parquet lists need pyarrow: pip install 'swinmim[parquet]', or write a CSV.") from error
        rows: list[dict[Any, Any]] = parquet.read_table(path).to_pylist()
        return rows
    with path.open(newline="", encoding="utf-8-sig") as file:
        if kind == ".jsonl":
            rows = [json.loads(line) for line in file if line.strip()]
            if odd := next((row for row in rows if not isinstance(row, dict)), None):
                raise ValueError(f'a line is {json.dumps(odd)[:60]}; write {{"path": ..., "label": ...}}')
            return rows
        return list(csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",", skipinitialspace=True))


def _path(value: object, place: str) -> str:
    """The path of a row, or a name that no file has and that says what is wrong."""
    if isinstance(value, str) and value.strip() and "\0" not in value:
        return value
    return f"{place}: no path" if value in (None, "") else f"{place}: no path but {value!r:.60}"


def _named_images(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> list[str]:
    """A warning for each column beside `path` that names images, masks perhaps: they are not read."""
    others = [name for name in columns if name not in ("path", "label", "labels", "mask")]
    named = [name for name in others if _is_image(rows[0].get(name), path.parent)]
    return [one_line(f"warning: the column {name} of {path.name} names images, which are not read") for name in named]


def _is_image(value: object, root: Path) -> bool:
    return isinstance(value, str) and "\0" not in value and not_an_image(value) is None and (root / value).is_file()


def read_list(path: Path, ignore_index: int = IGNORED) -> FileSource:
    """The images of a list, in its order; paths are relative to the list's folder. Missing files are items too.

    Labels are names or numbers, see `labels.number_labels`; a column `labels` holds any number of them for each image,
    with "|" between or as a list. A column `mask` names the label mask of each; classes.txt beside the list says what
    is in them, and `ignore_index` what is not to be learnt.

    Raises:
        DataError: unreadable, no column `path`, labels that cannot be used, or no file of it exists.
    """
    try:
        rows = [{str(key).strip().lower(): value for key, value in row.items()} for row in _rows(path)]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"The list {path} cannot be read ({error}).") from error
    if not rows:
        raise DataError(f"A list names at least one image, {path} names none. Its first line holds the columns.")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if any("path" not in row for row in rows):
        raise DataError(
            f"A list needs the columns path and, optionally, label, labels or mask; {path} has {', '.join(columns)}."
        )
    if {"label", "labels"} <= set(columns):
        raise DataError(
            f"A list has the column label (one for each image) or labels (any number, with | between); {path} has both."
            " Drop or rename one of them."
        )
    names = [_path(row["path"], f"{path.name} row {number}") for number, row in enumerate(rows, 1)]
    labels, targets = [-1] * len(rows), [""] * len(rows)
    masks: list[str] | None = None
    classes: tuple[str, ...]
    notes: list[str]
    if "mask" in columns:
        if other := {"label", "labels"} & set(columns):
            raise DataError(f"A list has one kind of answer; {path} has mask and {min(other)}. Drop or rename one.")
        masks, classes, notes = [label_text(row.get("mask")) or "" for row in rows], (), []
    elif "labels" in columns:
        texts = [label_texts(row.get("labels")) for row in rows]
        classes, targets, note = label_targets(texts, f"column labels of {path}")
        notes = [note]
    else:
        classes, labels = number_labels([label_text(row.get("label")) for row in rows], str(path))
        held = "only empty labels" if "label" in columns else "no column label"
        notes = [] if classes else [f"{path.name} has {held}"]
    if twice := len(set(zip(names, labels, targets, strict=True))) - len(set(names)):
        notes.append(f"warning: {twice:,} files are listed with different labels")
    notes += _named_images(rows, columns, path)
    if told := masks_among(names, lambda name: read_head(path.parent / name)):
        notes.append(f"{told[0]}; take their rows out")
    items, missing = [], 0
    for name, label, target in zip(names, labels, targets, strict=True):
        file = path.parent / name
        if file.is_file():
            found = file.stat()
            items.append(Item(name, label, found.st_size, found.st_mtime_ns, target))
        else:
            missing += 1  # the writer meets it again, names it, and counts it with the unreadable ones
            items.append(Item(name, label, 0, 0, target))
    if missing == len(rows):
        raise DataError(f"None of the {len(rows)} files that {path} lists exists. Paths count from {path.parent}.")
    if masks is not None:
        named = path.parent / CLASSES
        return paired(path.parent, items, masks, named if named.is_file() else None, ignore_index=ignore_index)
    kind: TargetKind | None = "labels" if "labels" in columns else None
    return FileSource(items=items, classes=classes, notes=tuple(notes), target=kind, root=path.parent)
