"""Images named in a list: CSV, TSV, JSON lines or parquet with a column path and maybe label, labels, mask, or columns
of numbers.
"""

import csv
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.codecs.targets import IGNORED, Needs, TargetKind
from data.sources.annotated.pairs import CLASSES, paired
from data.sources.columns import value_targets
from data.sources.labels import label_targets, label_text, label_texts, number_labels
from data.sources.masks import masks_among, read_head
from data.sources.source import FileSource, Item, not_a_clip, not_an_image
from swinmim.errors import DataError
from swinmim.outside import one_line

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


def _rows(path: Path) -> Iterable[tuple[int, dict[Any, Any]]]:
    """The rows, each with its line in the file; the header of a parquet file counts as the first."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        try:
            from pyarrow import parquet  # an extra
        except ImportError as error:
            raise DataError("Parquet lists need pyarrow: pip install 'swinmim[parquet]', or write a CSV.") from error
        rows: list[dict[Any, Any]] = parquet.read_table(path).to_pylist()
        return list(enumerate(rows, 2))
    with path.open(newline="", encoding="utf-8-sig") as file:
        if kind == ".jsonl":
            parsed = [(number, json.loads(line)) for number, line in enumerate(file, 1) if line.strip()]
            if odd := next((row for _, row in parsed if not isinstance(row, dict)), None):
                raise ValueError(f'a line is {json.dumps(odd)[:60]}; write {{"path": ..., "label": ...}}')
            return parsed
        reader = csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",", skipinitialspace=True)
        return [(reader.line_num, row) for row in reader]


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


def read_list(path: Path, needs: Needs | None = "nothing", ignore_index: int = IGNORED) -> FileSource:
    """The images of a list, in its order; paths are relative to the list's folder. Missing files are items too.

    Labels are names or numbers, see `labels.number_labels`; a column `labels` holds any number of them for each image,
    with "|" between or as a list. A column `mask` names the label mask of each; classes.txt beside the list says what
    is in them, and `ignore_index` what is not to be learnt. `needs` "value" reads the columns of numbers instead, see
    `columns.value_targets`; None reads them where there is no other answer. `needs` "clip" lists clips, as None does
    where all names are theirs.

    Raises:
        DataError: unreadable, no column `path`, labels or values that cannot be used, or no file of it exists.
    """
    try:
        found = list(_rows(path))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"The list {path} cannot be read ({error}).") from error
    lines, rows = (
        [line for line, _ in found],
        [{str(key).strip().lower(): value for key, value in row.items()} for _, row in found],
    )
    if not rows:
        raise DataError(f"A list names at least one image, {path} names none. Its first line holds the columns.")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if any("path" not in row for row in rows):
        raise DataError(
            f"A list needs the columns path and, optionally, label, labels or mask; {path} has {', '.join(columns)}."
        )
    if needs != "value" and {"label", "labels"} <= set(columns):
        raise DataError(
            f"A list has the column label (one for each image) or labels (any number, with | between); {path} has both."
            " Drop or rename one of them."
        )
    names = [_path(row["path"], f"{path.name} row {number}") for number, row in enumerate(rows, 1)]
    labels, targets, notes, kind = [-1] * len(rows), [""] * len(rows), list[str](), _kind(columns, needs)
    masks: list[str] | None = None
    classes: tuple[str, ...] = ()
    if kind == "mask":
        if other := {"label", "labels"} & set(columns):
            raise DataError(f"A list has one kind of answer; {path} has mask and {min(other)}. Drop or rename one.")
        masks = [label_text(row.get("mask")) or "" for row in rows]
    elif kind == "value":
        others = [column for column in columns if column != "path"]
        classes, targets, notes = value_targets(rows, lines, others, str(path), strict=needs == "value")
        kind = kind if classes else None
    elif kind == "labels":
        texts = [label_texts(row.get("labels")) for row in rows]
        classes, targets, note = label_targets(texts, f"column labels of {path}")
        notes = [note]
    if kind is None:
        targets = [""] * len(rows)
        classes, labels = number_labels([label_text(row.get("label")) for row in rows], str(path))
        held = "only empty labels" if "label" in columns else "no column label"
        notes += [] if classes else [f"{path.name} has {held}"]
    if twice := len(set(zip(names, labels, targets, strict=True))) - len(set(names)):
        notes.append(f"warning: {twice:,} files are listed with different labels")
    clips = needs == "clip" or (needs is None and not any(map(not_a_clip, names)))
    notes += _named_images(rows, columns, path)
    if told := not clips and masks_among(names, lambda name: read_head(path.parent / name)):
        notes.append(f"{told[0]}; take their rows out")
    items, missing = [], 0
    for name, label, target in zip(names, labels, targets, strict=True):
        file = path.parent / name
        if file.is_file():
            stat = file.stat()
            items.append(Item(name, label, stat.st_size, stat.st_mtime_ns, target))
        else:
            missing += 1  # the writer meets it again, names it, and counts it with the unreadable ones
            items.append(Item(name, label, 0, 0, target))
    if missing == len(rows):
        raise DataError(f"None of the {len(rows)} files that {path} lists exists. Paths count from {path.parent}.")
    if masks is not None:
        named = path.parent / CLASSES
        return paired(path.parent, items, masks, named if named.is_file() else None, ignore_index=ignore_index)
    return FileSource(items=items, classes=classes, notes=tuple(notes), target=kind, root=path.parent, clips=clips)


def _kind(columns: Collection[str], needs: Needs | None) -> TargetKind | None:
    if needs == "value" or (needs is None and not {"label", "labels", "mask"} & set(columns)):
        return "value"
    if "mask" in columns:
        return "mask"
    return "labels" if "labels" in columns else None
