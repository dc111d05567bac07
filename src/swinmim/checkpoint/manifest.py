"""manifest.json of an encoder folder: what the weights are, and where they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Gt, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from swinmim.errors import CheckpointError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MAX_BYTES = 64_000_000
"""Of a manifest that is read; class names of 22,000 classes take less than one."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Positive = Annotated[int, Gt(0)]
Windows = Annotated[tuple[tuple[Positive, Positive], ...], MinLen(1)]


class Manifest(BaseModel):
    """The facts an encoder folder carries. The first group describes the weights, the rest their history."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: dict[str, Any]
    """Fields of `swinmim.models.swinv2.Architecture`."""
    resolution: tuple[Positive, Positive]
    """Pixels, (H, W)."""
    windows: Windows
    """Window of each stage at this resolution, tokens."""
    pretrained_windows: Windows
    """Window of each stage that the position bias is measured in."""
    position_bias: str
    in_chans: Positive
    mean: tuple[float, ...]
    """Of the normalisation, per channel, for pixels in 0..1."""
    std: tuple[float, ...]
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Settings of the training that made the weights."""
    data: dict[str, Any] = Field(default_factory=dict)
    """What they were trained on: fingerprint, counts."""
    metrics: dict[str, Any] = Field(default_factory=dict)
    parent: str | None = None
    """The encoder folder that training started from."""
    task: dict[str, Any] | None = None
    """Of a task model, e.g. {"kind": "classify", "classes": [...]}."""
    created: str = ""
    """UTC, ISO 8601."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the libraries that wrote the folder."""
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Write manifest.json into `folder`. Raises CheckpointError for a value JSON cannot hold."""
        try:
            text = json.dumps(self.model_dump(), indent=2, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"The manifest holds only what JSON can: text, finite numbers, lists, mappings. {error}."
            ) from error
        (folder / MANIFEST_NAME).write_text(text + "\n")

    def history(self) -> dict[str, Any]:
        """What another folder of the same weights says of their origin: the fields that `save_encoder` takes."""
        return {name: value for name in HISTORY if (value := getattr(self, name)) is not None}


HISTORY = ("mean", "std", "recipe", "data", "metrics", "parent", "task")
"""The fields that a caller of `save_encoder` gives; the others are read off the encoder."""


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json of an encoder folder. Raises CheckpointError if it is not one this version can read."""
    path = folder / MANIFEST_NAME
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise CheckpointError(f"{path} has {size:,} bytes, more than a manifest can ({MAX_BYTES:,}).")
        content = from_json(path.read_bytes(), allow_inf_nan=False)  # refuses deep nesting, unlike json
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
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{path} is damaged: {', '.join(manifest_problems(error))}.") from error


def manifest_problems(error: ValidationError) -> list[str]:
    """Each field at fault, in words."""
    found = []
    for item in error.errors():
        name = ".".join(map(str, item["loc"]))
        match item["type"]:
            case "missing":
                found.append(f"{name} is missing")
            case "extra_forbidden" | "unexpected_keyword_argument":
                found.append(f"{name} is unknown")
            case _:
                found.append(f"{name}: {item['msg'].removeprefix('Value error, ')}; got {str(item['input'])[:60]!r}")
    return found
