"""Images of a Hugging Face dataset, read as stored, without decoding. Needs the extra `hf`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.folder import Item
from swinmim.errors import DataError

SCHEME = "hf-dataset:"


@dataclass(frozen=True)
class HubSource:
    """The rows of a dataset with an image column."""

    rows: Any
    column: str
    items: Sequence[Item]
    classes: tuple[str, ...]
    folders: int = 1
    skipped: tuple[tuple[str, str], ...] = ()

    def load(self, position: int) -> bytes:
        """The bytes of item `position`; raises OSError."""
        cell = self.rows[position][self.column]
        if cell["bytes"] is not None:
            return bytes(cell["bytes"])
        return Path(cell["path"]).read_bytes()


def read_dataset(name: str) -> HubSource:
    """Open "NAME" or "NAME@SPLIT" (default train) from the hub, or a directory that `save_to_disk` wrote.

    Raises:
        DataError: `datasets` is not installed; or no such dataset, split, or image column.
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
    rows = rows.cast_column(column, datasets.Image(decode=False))
    kinds = {key: kind for key, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    label = "label" if "label" in kinds else next(iter(kinds), None)
    labels = rows[label] if label is not None else [-1] * len(rows)
    items = [Item(f"{name}/{n:09d}", int(value), 0, 0) for n, value in enumerate(labels)]
    return HubSource(rows, column, items, tuple(kinds[label].names) if label is not None else ())
