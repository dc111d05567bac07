"""Weights of other SwinV2 implementations to an encoder folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from swinmim.checkpoint.coverage import Coverage
from swinmim.checkpoint.encoder import CLASSIFIER_NAMES, save_encoder
from swinmim.checkpoint.foreign import is_foreign, read_foreign
from swinmim.checkpoint.manifest import MANIFEST_NAME
from swinmim.checkpoint.timm_config import CLASSIFIER
from swinmim.errors import CheckpointError


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    resolution: int | None = None,
    window: int | None = None,
    head_rows: str | Path | None = None,
) -> Coverage:
    """Write an encoder folder from another library's checkpoint. Returns what was matched, kept and dropped.

    resolution, window: see `read_foreign`. head_rows: a text file that picks classes of the head, see `read_rows`;
    without it the head stays whole. Raises CheckpointError as `read_foreign`, and for rows that do not fit the head.
    """
    source = Path(source)
    if not is_foreign(source) and any((place / MANIFEST_NAME).is_file() for place in (source, source.parent)):
        raise CheckpointError(f"{source} is an encoder folder already, or in one: there is nothing to convert.")
    found = read_foreign(source, resolution=resolution, window=window)
    weights, history, report = found.weights, found.history, found.report
    if head_rows is not None:
        if f"{CLASSIFIER}.bias" not in weights:
            raise CheckpointError(f"{source} has no classifier whose rows {head_rows} could pick. Drop the rows.")
        num_classes = len(weights[f"{CLASSIFIER}.bias"])
        rows = read_rows(Path(head_rows), num_classes)
        report = dataclasses.replace(
            report, notes=(*report.notes, f"head: {len(rows)} of {num_classes} classes picked")
        )
        weights |= {name: weights[name][rows] for name in CLASSIFIER_NAMES}
        history["recipe"] |= {"head_rows": str(head_rows)}
        if "task" in history:
            history["task"]["classes"] = [history["task"]["classes"][row] for row in rows]
    save_encoder(found.encoder, destination, history, weights)
    return report


def read_rows(file: Path, num_classes: int) -> list[int]:
    """Which class of the source each class of the new head comes from: one number per line, from 0; order counts.

    As map22kto1k.txt of microsoft/Swin-Transformer, which takes ImageNet-22K heads to ImageNet-1K. Raises
    CheckpointError, naming the line, for what is no number, not a class of the source, or there twice.
    """
    try:
        lines = file.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not "".join(lines).strip():
        raise CheckpointError(f"{file} is empty; it has one class number of the source per line.")
    rows: dict[int, int] = {}
    for number, line in enumerate("\n".join(lines).rstrip().split("\n"), start=1):
        if not line.strip().isdecimal():
            raise CheckpointError(f"{file}, line {number}: one class number of the source per line; got {line!r}.")
        row = int(line)
        if row >= num_classes:
            raise CheckpointError(
                f"{file}, line {number}: class {row} of a head with {num_classes} classes (0 to {num_classes - 1}). "
                "The file belongs to another head."
            )
        if row in rows:
            raise CheckpointError(f"{file}, line {number}: class {row} is in line {rows[row]} already.")
        rows[row] = number
    return list(rows)
