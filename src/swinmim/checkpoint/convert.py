"""Weights of other SwinV2 implementations to an encoder folder, and an encoder folder to Hugging Face."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from swinmim.checkpoint.coverage import Coverage
from swinmim.checkpoint.encoder import CLASSIFIER_NAMES, load_stored, open_encoder, save_encoder, write_tensors
from swinmim.checkpoint.foreign import is_foreign, read_foreign
from swinmim.checkpoint.manifest import MANIFEST_NAME, Manifest
from swinmim.checkpoint.names import to_huggingface
from swinmim.checkpoint.timm_config import CLASSIFIER, class_names, timm_obstacle
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


def export_huggingface(source: str | Path, destination: str | Path) -> Path:
    """Write a folder for Swinv2Model.from_pretrained, or Swinv2ForImageClassification with a linear head; others stay.

    AutoImageProcessor makes the images that the weights were judged on. Raises CheckpointError for what Hugging Face
    has no setting for: main-branch norms, other biases, oblong windows.
    """
    stored = open_encoder(source)
    encoder, manifest, destination = load_stored(stored), stored.manifest, Path(destination)
    head = {name: tensor for name, tensor in stored.read().items() if name in CLASSIFIER_NAMES}
    obstacle = timm_obstacle(encoder)  # Hugging Face lacks the same
    if obstacle is None and encoder.position_bias != "log":
        obstacle = "it always measures offsets in the pretrained window"
    if obstacle is None and any(len(set(pair)) > 1 for pair in (encoder.resolution, encoder.stages[0].window)):
        obstacle = "it takes square images and windows only"
    if obstacle is not None:
        raise CheckpointError(f"Cannot export to Hugging Face: {obstacle.replace('timm', 'Hugging Face')}.")
    if destination.exists():
        raise CheckpointError(f"{destination} exists; choose another path.")
    a = encoder.architecture
    config: dict[str, Any] = {
        "model_type": "swinv2",
        "architectures": ["Swinv2ForImageClassification" if head else "Swinv2Model"],
        "image_size": encoder.resolution[0],
        "patch_size": a.patch_size,
        "num_channels": a.in_chans,
        "embed_dim": a.embed_dim,
        "depths": list(a.depths),
        "num_heads": list(a.num_heads),
        "window_size": encoder.stages[0].window[0],
        "pretrained_window_sizes": [window[0] for window in encoder.pretrained_windows],
        "mlp_ratio": a.mlp_ratio,
        "drop_path_rate": 0.0,
    }
    weights = to_huggingface(encoder.state_dict())
    if head:
        weights = {f"swinv2.{name}": tensor for name, tensor in weights.items()} | to_huggingface(head)
        num_classes = len(head[f"{CLASSIFIER}.bias"])
        names = class_names(manifest, num_classes) or [f"LABEL_{i}" for i in range(num_classes)]
        config["id2label"] = {str(i): name for i, name in enumerate(names)}
        if len(set(names)) == num_classes:
            config["label2id"] = {name: i for i, name in enumerate(names)}
    destination.mkdir(parents=True)
    for name, content in (("config.json", config), ("preprocessor_config.json", _preprocessor(manifest))):
        (destination / name).write_text(json.dumps(content, indent=2) + "\n")
    write_tensors(destination / "model.safetensors", weights, {"format": "pt"})
    return destination


def _preprocessor(manifest: Manifest) -> dict[str, Any]:
    """The evaluation view in Hugging Face's words."""
    view, (height, width) = manifest.evaluation, manifest.resolution
    scaled = [math.floor(side / view.crop_pct) for side in (height, width)]
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"height": scaled[0], "width": scaled[1]}
        if view.crop_mode == "squash"
        else {"shortest_edge": scaled[0]},
        "crop_size": {"height": height, "width": width},
        "resample": {"bilinear": 2, "bicubic": 3}[view.interpolation],
        "do_convert_rgb": manifest.in_chans == 3,
        "image_mean": list(manifest.mean),
        "image_std": list(manifest.std),
    }
