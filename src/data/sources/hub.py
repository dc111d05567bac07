"""Images of a Hugging Face dataset, read as stored, without decoding. Needs the extra `hf`."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.sources.labels import label_text, number_labels
from data.sources.source import Item
from swinmim.errors import DataError

SCHEME = "hf-dataset:"


@dataclass(frozen=True)
class HubSource:
    """The rows of a dataset with an image column. Sizes are not known before they are read."""

    rows: Any
    column: str
    items: Sequence[Item]
    classes: tuple[str, ...]
    folders: int = 1
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def load(self, position: int) -> bytes:
        """The bytes of item `position`; raises OSError."""
        cell = self.rows[position][self.column] or {}
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell.get("path") is None:
            raise FileNotFoundError("no image in this row")
        return Path(cell["path"]).read_bytes()


def read_dataset(name: str) -> HubSource:
    """Open "NAME" or "NAME@SPLIT" (default train) from the hub, or a directory that `save_to_disk` wrote.

    Labels are the column `label`, or the only one of the kind ClassLabel.

    Raises:
        DataError: `datasets` is not installed; no such dataset, split, or image column; or labels that cannot be used.
    """
    try:
        import datasets  # an extra
    except ImportError as error:
        raise DataError("Hugging Face datasets need: pip install 'swinmim[hf]'.") from error
    path, _, split = name.partition("@")
    try:
        if Path(path).is_dir() and not any(Path(path).glob("*.parquet")):
            loaded = datasets.load_from_disk(path)
            rows = loaded[split or "train"] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            rows = datasets.load_dataset(path, split=split or "train")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"The dataset {name!r} cannot be opened ({error}).") from error
    column = next((key for key, kind in rows.features.items() if isinstance(kind, datasets.Image)), None)
    if column is None:
        raise DataError(f"{name!r} has no image column, only {', '.join(rows.features)}.")
    # In place of the time of a change; casting would draw a new one.
    version = int.from_bytes(hashlib.sha256(rows._fingerprint.encode()).digest()[:7], "big")
    rows = rows.cast_column(column, datasets.Image(decode=False))
    numbered = [key for key, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    label = "label" if "label" in rows.features else numbered[0] if len(numbered) == 1 else None
    kind = rows.features[label] if label is not None else None
    texts: list[str | None] = [None] * len(rows)
    names: Sequence[str] = ()
    if isinstance(kind, datasets.ClassLabel):
        names = kind.names
        texts = [None if value == -1 else label_text(value) for value in rows[label]]  # -1: hidden, as in test splits
    elif isinstance(kind, datasets.Value):
        texts = [label_text(value) for value in rows[label]]
    classes, labels = number_labels(texts, f"column {label} of {name!r}", names)
    notes = () if classes else (f"no column label with one text or number a row; columns: {', '.join(rows.features)}",)
    items = [Item(f"{name}/{n:09d}", number, 0, version) for n, number in enumerate(labels)]
    return HubSource(rows, column, items, classes, notes=notes)
