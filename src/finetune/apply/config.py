"""Settings of evaluate, predict and embed: the root schemas of their files in conf/."""

import dataclasses
from typing import Annotated, Literal

from pydantic import Field

from data.config import DecodingConfig, LabelledPackingConfig
from swinmim.config import Count, schema
from swinmim.training.settings import AcceleratorConfig, DeviceConfig

Side = Count | tuple[Count, Count]
"""Pixels, or (height, width)."""


@schema
class EvaluationDataConfig(LabelledPackingConfig):
    path: str | None
    """Labelled images with the model's classes, as `data.path` of finetune; null is what the run validated on."""


@schema
class FilesConfig(DecodingConfig):
    path: str
    """A folder of images, a list, a tar, a shard set; labels are not read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ValueError("path is empty, which would be the current directory. Add data.path=DIR")


@schema
class CommandConfig:
    """What the three have in common."""

    ckpt: str
    output_dir: str

    def __post_init__(self) -> None:
        for name in ("output_dir", "ckpt"):
            if getattr(self, name) == "":
                raise ValueError(f"{name} is empty. Add {name}=PATH.")


@schema
class EvaluateConfig(CommandConfig):
    ckpt: str = dataclasses.field(metadata={"required": "a run of finetune, or the folder of a task model"})
    resolution: Count | tuple[Side, ...] | None
    """Pixels; a list evaluates at several, [[height, width]] at one that is no square."""
    data: EvaluationDataConfig
    trainer: DeviceConfig
    batch_size: Count | None
    """Images per device and forward pass; null is the run's."""
    worst: Annotated[int, Field(ge=0, le=100)]
    """Images in the picture of those that are answered worst; 0 is none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resolution == ():
            raise ValueError("resolution is an empty list. Name at least one, or null for the model's own")

    def resolutions(self) -> tuple[Side | None, ...]:
        return self.resolution if isinstance(self.resolution, tuple) else (self.resolution,)


@schema
class PredictConfig(CommandConfig):
    ckpt: str = dataclasses.field(metadata={"required": "a run of finetune, or the folder of a task model"})
    resolution: Side | None
    data: FilesConfig
    trainer: AcceleratorConfig
    batch_size: Count
    table: Literal["csv", "parquet"]
    """predictions.csv or predictions.parquet."""
    overlays: bool
    """Draw the answers over the images, where the task can."""


@schema
class EmbedConfig(CommandConfig):
    ckpt: str = dataclasses.field(metadata={"required": "a run, an encoder folder, or published weights"})
    resolution: Side | None
    stage: Count | None
    """Whose map is averaged over its positions; null is the last, after the final norm."""
    data: FilesConfig
    trainer: AcceleratorConfig
    batch_size: Count
    format: Literal["npy", "parquet"]
    """npy: embeddings.npy, with paths.txt beside it; parquet: embeddings.parquet with the columns path and feature."""
    queries: Annotated[int, Field(ge=0, le=100)]
    """Rows of the picture of nearest neighbours; 0 is none."""
