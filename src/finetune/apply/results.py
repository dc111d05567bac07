"""Answers about images -> files: a table, masks, detections as COCO has them, and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.codecs.targets import runs_of
from finetune.task import Row
from finetune.worst import cell
from swinmim.errors import DataError

Columns = dict[str, Any]


class Table:
    """predictions.csv, or .parquet, of one row after another; whoever opens it closes it.

    Raises DataError: parquet without pyarrow.
    """

    def __init__(self, folder: Path, name: str, kind: Literal["csv", "parquet"]) -> None:
        self.path = folder / f"{name}.{kind}"
        self.kind = kind
        if kind == "parquet":
            parquet()
        self._rows: list[Columns] = []
        self._file = self.path.open("w", newline="", encoding="utf-8") if kind == "csv" else None
        self._writer: csv.DictWriter[str] | None = None

    def add(self, row: Columns) -> None:
        if self._file is None:
            self._rows.append(row)
            return
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, row.keys())
            self._writer.writeheader()
        self._writer.writerow({name: cell(value) for name, value in row.items()})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        elif kind is None:
            arrow, writer = parquet()
            writer.write_table(arrow.Table.from_pylist(self._rows), self.path)


def parquet() -> tuple[Any, Any]:
    """pyarrow and its parquet, an extra. Raises DataError without them."""
    try:
        import pyarrow
        from pyarrow import parquet as writer
    except ImportError as error:
        raise DataError("Parquet needs pyarrow: pip install 'swinmim[parquet]', or take the other format.") from error
    return pyarrow, writer


def flat(row: Row) -> Columns:
    """The columns of an answer, without what is a file of its own; of the k likeliest a column each."""
    columns: Columns = {}
    for name, value in row.items():
        match name, value:
            case "mask", _:
                continue
            case "objects", list():
                columns["objects"] = len(value)
            case "top", list():
                for place, one in enumerate(value, 1):
                    columns |= {f"top{place}_{key}": part for key, part in one.items()}
            case _:
                columns[name] = value
    return columns


class Beside:
    """Names of files for images: as the images are called, below a folder, none twice."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._taken: set[PurePosixPath] = set()

    def path(self, name: str, suffix: str) -> Path:
        """The place for what belongs to the image of a name; its folder is made. Names do not lead out of ours."""
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")] or ["image"]
        base = PurePosixPath(*parts)
        stem = base.with_suffix("") if base.suffix else base
        place, number = stem.with_name(f"{stem.name}{suffix}"), 1
        while place in self._taken:
            number += 1
            place = stem.with_name(f"{stem.name}.{number}{suffix}")
        self._taken.add(place)
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def save_mask(path: Path, mask_HW: NDArray[np.uint8]) -> None:
    """A grey PNG whose values are the classes."""
    Image.fromarray(np.asarray(mask_HW, np.uint8)).save(path)


class Detections:
    """detections.json, a list as the COCO tools load it for results, and images.json with the images and categories
    that its numbers mean."""

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.number = folder, {name: place for place, name in enumerate(classes, 1)}
        self._images: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []

    def add(self, name: str, size: Sequence[int], objects: Sequence[Mapping[str, Any]]) -> None:
        """size: (height, width)."""
        image = len(self._images) + 1
        self._images.append({"id": image, "file_name": name, "height": int(size[0]), "width": int(size[1])})
        for one in objects:
            found = {
                "image_id": image,
                "category_id": self.number[one["class"]],
                "bbox": [round(float(number), 3) for number in one["bbox"]],
                "score": float(one["score"]),
            }
            if (mask := one.get("mask")) is not None:
                found["segmentation"] = run_lengths(np.asarray(mask, np.bool_))
            self._found.append(found)

    def write(self) -> None:
        categories = [{"id": number, "name": name} for name, number in self.number.items()]
        (self.folder / "detections.json").write_text(json.dumps(self._found))
        told = {"images": self._images, "categories": categories, "annotations": []}
        (self.folder / "images.json").write_text(json.dumps(told))


def run_lengths(mask_HW: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask as the COCO tools compress it: runs in base 32, from the third on less the one two before (maskApi.c)."""
    runs = runs_of(mask_HW)
    text = []
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        while True:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text.append(chr(48 + digit + (32 if more else 0)))
            if not more:
                break
    return {"size": list(mask_HW.shape), "counts": "".join(text)}
