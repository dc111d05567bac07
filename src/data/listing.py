"""Images named in a list: CSV, TSV, JSON lines or parquet with the columns path and, optionally, label."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.folder import Item
from swinmim.errors import DataError

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class ListSource:
    """The images of a list, in its order; paths are relative to the list's folder."""

    root: Path
    items: Sequence[Item]
    classes: tuple[str, ...]
    folders: int
    skipped: tuple[tuple[str, str], ...]

    def load(self, position: int) -> bytes:
        """The bytes of item `position`; raises OSError."""
        return (self.root / self.items[position].name).read_bytes()


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    if path.suffix == ".parquet":
        try:
            from pyarrow import parquet  # an extra
        except ImportError as error:
            raise DataError("Parquet lists need pyarrow: pip install 'swinmim[parquet]', or write a CSV.") from error
        rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
        return rows
    with path.open(newline="", encoding="utf-8-sig") as file:
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in file if line.strip()]
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def read_list(path: str | Path) -> ListSource:
    """Read a list of images. Labels are names or numbers; classes are their sorted names, numbers by value.

    Raises:
        DataError: unreadable, no column `path`, labels in some rows only, or no file of it exists.
    """
    path = Path(path)
    try:
        rows = list(_rows(path))
        names = [str(row["path"]) for row in rows]
    except KeyError as error:
        raise DataError(f"A list needs the columns path and, optionally, label; {path} lacks {error}.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"The list {path} cannot be read ({error}).") from error
    given = [row.get("label") for row in rows]
    known = [label for label in given if label not in (None, "")]
    if known and len(known) != len(rows):
        raise DataError(f"All rows of a list have a label or none; {path} has {len(known)} for {len(rows)} rows.")
    texts = {str(label) for label in known}
    if texts and all(text.isdigit() for text in texts):
        classes = tuple(str(number) for number in range(max(map(int, texts)) + 1))
    else:
        classes = tuple(sorted(texts))
    number = {name: n for n, name in enumerate(classes)}
    items, skipped = [], []
    for name, label in zip(names, given, strict=True):
        try:
            stat = os.stat(path.parent / name)
        except OSError as error:
            skipped.append((name, str(error.strerror)))
        else:
            items.append(Item(name, number.get(str(label), -1) if classes else -1, stat.st_size, stat.st_mtime_ns))
    if not items:
        raise DataError(f"None of the {len(rows)} files that {path} lists exists. Paths count from {path.parent}.")
    folders = len({name.rpartition("/")[0] for name in names})
    return ListSource(path.parent, items, classes, folders, tuple(skipped))
