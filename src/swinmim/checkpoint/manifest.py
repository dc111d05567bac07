"""manifest.json of an encoder folder: what the weights are, and where they come from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from annotated_types import Ge, Gt, Le, MaxLen, MinLen
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from swinmim.errors import CheckpointError
from swinmim.models.architecture import Architecture
from swinmim.models.position_bias import PositionBias
from swinmim.models.windows import stage_windows
from swinmim.outside import Unreadable, brief, read_json

T = TypeVar("T")

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Far beyond what was ever trained, and little enough that a description costs neither memory nor time.
MOST_PIXELS, MOST_TOKENS = 2**14, 2**9  # a side
Pixels = Annotated[int, Gt(0), Le(MOST_PIXELS)]
Tokens = Annotated[int, Gt(0), Le(MOST_TOKENS)]
Windows = Annotated[tuple[tuple[Tokens, Tokens], ...], MinLen(1), MaxLen(8)]
Deviation = Annotated[FiniteFloat, Ge(1e-6)]
_LARGEST = {
    "embed_dim": 2**14, "head_dim": 2**14, "patch_size": 2**9, "mlp_ratio": 64, "window_ratio": 2**14, "in_chans": 2**12
}  # fmt: skip
MOST_PARENTS = 32
_MOST_BLOCKS, _MOST_STAGES, _LARGEST_WINDOW = 500, 8, 2**14


class Evaluation(BaseModel):
    """How an image becomes what the weights are judged on, in timm's words."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop_pct: Annotated[FiniteFloat, Gt(0), Le(1)] = 1.0
    """Share of the image's side that is kept."""
    crop_mode: Literal["center", "squash"] = "center"
    """center cuts what does not fit the resolution's aspect, squash bends the image into it."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class Ancestor(BaseModel):
    """What a folder said of itself when training started from it: the fields of its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """As it was then."""
    resolution: tuple[Pixels, Pixels] | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    created: str = ""


class Manifest(BaseModel):
    """The facts an encoder folder carries. The first group describes the weights, the rest their history."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    architecture: Architecture
    resolution: tuple[Pixels, Pixels]
    """Pixels, (H, W)."""
    windows: Windows
    """Window of each stage at this resolution, tokens."""
    pretrained_windows: Windows
    """Window of each stage that the position bias is measured in."""
    position_bias: PositionBias
    in_chans: int
    mean: tuple[FiniteFloat, ...]
    """Of the normalisation, per channel, for pixels in 0..1."""
    std: tuple[Deviation, ...]
    evaluation: Evaluation = Evaluation()
    recipe: dict[str, Any] = Field(default_factory=dict)
    """Settings of the training that made the weights."""
    data: dict[str, Any] = Field(default_factory=dict)
    """What they were trained on: fingerprint, counts."""
    metrics: dict[str, Any] = Field(default_factory=dict)
    parent: str | None = None
    """The encoder folder that training started from."""
    parents: Annotated[tuple[Ancestor, ...], MaxLen(MOST_PARENTS)] = ()
    """That one and those before it, the nearest first; empty in folders of earlier versions too."""
    task: dict[str, Any] | None = None
    """Of a task model, e.g. {"kind": "classify", "classes": [...]}."""
    created: str = ""
    """UTC, ISO 8601."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Of the libraries that wrote the folder."""
    format_version: int = FORMAT_VERSION

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Raises ValueError for numbers that cannot be true together, or would cost memory before weights are read."""
        a, channels = self.architecture, self.architecture.in_chans
        for field, largest in _LARGEST.items():
            if getattr(a, field) > largest:
                raise ValueError(f"architecture.{field} is at most {largest}; got {getattr(a, field)}")
        if a.num_stages > _MOST_STAGES or sum(a.depths) > _MOST_BLOCKS:
            most = f"{_MOST_STAGES} stages and {_MOST_BLOCKS} blocks"
            raise ValueError(f"architecture.depths has at most {most}; got {str(a.depths)[:60]}")
        for field, found in (("in_chans", self.in_chans), ("mean", len(self.mean)), ("std", len(self.std))):
            if found != channels:
                raise ValueError(f"{field} is of {found} channels, the architecture of {channels}")
        if math.prod(self.windows[0]) > _LARGEST_WINDOW:
            raise ValueError(f"a window has at most {_LARGEST_WINDOW} tokens; got {self.windows[0]}")
        stages = stage_windows(
            self.resolution,
            patch_size=a.patch_size,
            num_stages=a.num_stages,
            window_ratio=a.window_ratio,
            window=self.windows[0],
            pad=True,
        )
        if (windows := tuple(stage.window for stage in stages)) != self.windows:
            raise ValueError(
                f"windows at {self.resolution} px are {windows} for the first of these; got {self.windows}"
            )
        if len(self.pretrained_windows) != a.num_stages:
            raise ValueError(
                f"pretrained_windows has one of each of the {a.num_stages} stages; got {self.pretrained_windows}"
            )
        return self

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
        return {name: value for name, value in self.model_dump(include=set(HISTORY)).items() if value is not None}

    def chain(self, path: str) -> tuple[Ancestor, ...]:
        """`parents` of what is trained from this folder at `path`."""
        told = self.parents
        if not told and self.parent is not None:  # of an earlier version
            told = (Ancestor(path=self.parent),)
        own = self.model_dump(include={"resolution", "recipe", "data", "metrics", "created"})
        return (Ancestor(path=path, **own), *told)[:MOST_PARENTS]


HISTORY = ("mean", "std", "recipe", "data", "metrics", "parent", "parents", "task", "evaluation")
"""The fields that a caller of `save_encoder` gives; the others are read off the encoder."""


def read_outside(path: Path, kind: type[T], otherwise: str) -> T:
    """A small JSON file that others wrote, see `swinmim.outside`.

    Raises CheckpointError; it says `otherwise` of a file that is another one.
    """
    try:
        return read_json(path, kind)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    except Unreadable as error:
        raise CheckpointError(f"{path} {otherwise}: {error}.") from error


def read_manifest(folder: Path) -> Manifest:
    """Read manifest.json of an encoder folder. Raises CheckpointError if it is not one this version can read."""
    path = folder / MANIFEST_NAME
    content = read_outside(path, dict[str, Any], "cannot be read")
    if "architecture" not in content:
        raise CheckpointError(f"{path} is not the manifest of an encoder folder (it names no architecture).")
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {brief(version)}; this swinmim reads version {FORMAT_VERSION}. "
            "Use the swinmim that wrote it"
            + (f" ({brief(content['versions'].get('swinmim'))})." if isinstance(content.get("versions"), dict) else ".")
        )
    return read_outside(path, Manifest, "is damaged")
