"""Images of a Hugging Face dataset, read as stored, without decoding. Needs the extra `hf`."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.sources.labels import label_targets, label_text, label_texts, number_labels
from data.sources.source import Item, Source, read_file
from swinmim.errors import DataError

SCHEME = "hf-dataset:"


@dataclass(frozen=True, kw_only=True)
class HubSource(Source):
    """The rows of a dataset with an image column. Sizes are not known before they are read."""

    rows: Any
    column: str

    def load(self, position: int) -> bytes:
        cell = self.rows[position][self.column] or {}
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell.get("path") is None:
            raise FileNotFoundError("no image in this row")
        return read_file(Path(cell["path"]))


def read_dataset(name: str) -> HubSource:
    """Open "NAME" or "NAME@SPLIT" (default train) from the hub, or a directory that `save_to_disk` wrote.

    Labels are the column `label`, or the only one of the kind ClassLabel; several for each image where it holds
    sequences, as may the column `labels`.

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
    label, kind, inner = _labels(rows.features)
    where = f"column {label} of {name!r}"
    named = kind if inner is None else inner
    names: Sequence[str] = named.names if isinstance(named, datasets.ClassLabel) else ()
    if inner is not None:
        classes, targets, note = label_targets([label_texts(value or ()) for value in rows[label]], where, names)
        items = [Item(f"{name}/{n:09d}", -1, 0, version, target) for n, target in enumerate(targets)]
        return HubSource(items=items, classes=classes, notes=(note,), target="labels", rows=rows, column=column)
    texts: list[str | None] = [None] * len(rows)
    if isinstance(kind, datasets.ClassLabel | datasets.Value):
        # -1: hidden, as in test splits
        texts = [None if names and value == -1 else label_text(value) for value in rows[label]]
    classes, labels = number_labels(texts, where, names)
    notes = () if classes else (f"no column label with one text or number a row; columns: {', '.join(rows.features)}",)
    items = [Item(f"{name}/{n:09d}", number, 0, version) for n, number in enumerate(labels)]
    return HubSource(items=items, classes=classes, notes=notes, rows=rows, column=column)


def _labels(features: Mapping[str, Any]) -> tuple[str | None, Any, Any]:
    """The column of labels and its kind, and the kind of one label where a row holds several."""
    from datasets import ClassLabel, Value

    inner = {
        key: kind[0] if isinstance(kind, list) else getattr(kind, "feature", None) for key, kind in features.items()
    }
    inner = {key: kind if isinstance(kind, ClassLabel | Value) else None for key, kind in inner.items()}
    single = [key for key, kind in features.items() if isinstance(kind, ClassLabel)]
    several = [key for key, kind in inner.items() if isinstance(kind, ClassLabel)]
    if "label" in features:
        key = "label"
    elif len(single) == 1:
        key = single[0]
    elif inner.get("labels") is not None:
        key = "labels"
    elif len(several) == 1 and not single:
        key = several[0]
    else:
        return None, None, None
    return key, features[key], inner[key]
