"""manifest.json of an encoder folder: what the weights are, and where they come from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swinmim.errors import CheckpointError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The facts an encoder folder carries. The first group describes the weights, the rest their history."""

    architecture: dict[str, Any]
    """Fields of `swinmim.models.swinv2.Architecture`."""
    resolution: tuple[int, int]
    """Pixels, (H, W)."""
    windows: tuple[tuple[int, int], ...]
    """Window of each stage at this resolution, tokens."""
    pretrained_windows: tuple[tuple[int, int], ...]
    """Window of each stage that the position bias is measured in."""
    position_bias: str
    in_chans: int
    mean: tuple[float, ...]
    """Of the normalisation, per channel, for pixels in 0..1."""
    std: tuple[float, ...]
    recipe: dict[str, Any] = field(default_factory=dict)
    """Settings of the training that made the weights."""
    data: dict[str, Any] = field(default_factory=dict)
    """What they were trained on: fingerprint, counts."""
    metrics: dict[str, Any] = field(default_factory=dict)
    parent: str | None = None
    """The encoder folder that training started from."""
    task: dict[str, Any] | None = None
    """Of a task model, e.g. {"kind": "classify", "classes": [...]}."""
    created: str = ""
    """UTC, ISO 8601."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of the libraries that wrote the folder."""
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Write manifest.json into `folder`. Raises CheckpointError for a value JSON cannot hold."""
        try:
            text = json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"The manifest holds only what JSON can: text, finite numbers, lists, mappings. {error}."
            ) from error
        (folder / MANIFEST_NAME).write_text(text + "\n")


HISTORY = ("mean", "std", "recipe", "data", "metrics", "parent", "task")
"""The fields that a caller of `save_encoder` gives; the others are read off the encoder."""


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json of an encoder folder. Raises CheckpointError if it is not one this version can read."""
    path = folder / MANIFEST_NAME
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(content, dict) or "architecture" not in content:
        raise CheckpointError(f"{path} is not the manifest of an encoder folder (it names no architecture).")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {version}; this swinmim reads version {FORMAT_VERSION}. "
            "Use the swinmim that wrote it"
            + (f" ({content['versions'].get('swinmim')})." if isinstance(content.get("versions"), dict) else ".")
        )
    fields = {f.name: f for f in dataclasses.fields(Manifest)}
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    wrong = [f"{n} is missing" for n in required if n not in content]
    wrong += [f"{n} is unknown" for n in content if n not in fields]
    if wrong:
        raise CheckpointError(f"{path} is damaged: {', '.join(wrong)}.")
    for name in ("resolution", "mean", "std"):
        content[name] = tuple(content[name])
    for name in ("windows", "pretrained_windows"):
        content[name] = tuple(tuple(window) for window in content[name])
    return Manifest(**content)
