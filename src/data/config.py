"""Settings of the data: the `data` group of both commands."""

import math
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from swinmim.config import Count, schema

Values = tuple[float, ...]


@schema
class MixConfig:
    """A further set of a mixture."""

    path: str
    """As `data.path`."""
    weight: float
    """Share of each global batch, relative to 1 for `data.path`."""

    def __post_init__(self) -> None:
        if not self.path:
            raise ValueError("path is empty, which would be the current directory. Name a set; that directory is .")
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight must be positive and finite, got {self.weight}")


@schema
class DecodingConfig:
    """How images are read."""

    decoder: Literal["turbo", "pil"] = "turbo"
    """turbo: libjpeg-turbo for JPEG, refuses damaged files; pil: Pillow, the slower reference, accepts some."""
    max_pixels: int = 100_000_000
    """Larger images are not decoded, neither while packing nor in the run."""
    num_workers: int | None
    """Loader processes of each process; null: as many as the machine has cores for, at most 8."""

    def __post_init__(self) -> None:
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels must be at least 1, got {self.max_pixels}")


@schema
class PackingConfig(DecodingConfig):
    """How sets are made of folders, and kept."""

    cache_dir: str | None
    """Where folders are packed into shards, and remote shards are kept; null is ~/.cache/swinmim."""
    cache_bytes: int = 100_000_000_000
    """What the remote shards in cache_dir may take together."""
    allow_insecure: bool = False
    """Read remote sets over plain http too."""
    pack_resize: Count | None
    """Shorter side in pixels of the packed images; null keeps the originals."""
    pack_quality: Annotated[int, Field(ge=1, le=100)]
    """JPEG quality of images that are resized while packing."""
    max_bad_fraction: float
    """Share of files beyond which packing (unusable ones) and the run (undecodable images) stop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cache_dir == "":
            raise ValueError("cache_dir is empty. Name a directory, or null for ~/.cache/swinmim")
        if not 0 <= self.max_bad_fraction <= 1:
            raise ValueError(f"max_bad_fraction must lie between 0 and 1, got {self.max_bad_fraction}")
        if self.cache_bytes < 1:
            raise ValueError(f"cache_bytes must be positive, got {self.cache_bytes}")

    def cache_folder(self) -> Path:
        return Path(self.cache_dir).expanduser() if self.cache_dir else Path.home() / ".cache" / "swinmim"


@schema
class LabelledPackingConfig(PackingConfig):
    """How they are made of folders with targets."""

    ignore_index: Annotated[int, Field(ge=0, le=255)] = 255
    """Label masks: value in the files, or line of a colour in classes.txt, of pixels that have no class."""


@schema
class DataConfig(PackingConfig):
    path: str
    """A tree of images, a shard set (directory with manifest.json, or its https, s3, gs or hf URL), or
    builtin:digits."""
    val_ratio: float
    """Share of the set that is held out for validation; always the same images, whatever the run's seed. Pretraining
    with 0 trains on all of it, without validation and pictures."""
    stats: Literal["auto", "imagenet"] | tuple[Values, Values]
    """Normalisation. auto: the pretrained encoder's own where there is one, else the set's; or [[mean, ...],
    [std, ...]] per channel in 0..1 units."""
    mix: tuple[MixConfig, ...] = ()
    """Pretraining: further sets that are mixed into every global batch."""
    lanes: int = 1
    """Independent streams of shards, each with an equal part of every global batch; must divide global_batch_size, and
    is fixed for a run. A multiple of the number of processes lets each node fetch only its own part of a remote set."""
    streaming_samples: Count | None = None
    """Pretraining: read path as WebDataset tars without an index (a directory, or URLs with {000..123}), in random
    order with repetition; so many images count as an epoch. Such a run cannot be resumed exactly; python -m data.write
    index avoids it. null reads an indexed set."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.path:
            raise ValueError(
                "path is empty, which would be the current directory. Add data.path=DIR (data.path=. if meant)"
            )
        if not 0 <= self.val_ratio < 1:
            raise ValueError(f"val_ratio must lie between 0 and 1, got {self.val_ratio}")
        streaming = self.streaming_samples is not None
        if streaming and self.mix:
            raise ValueError("mix needs indexed sets; it has no effect with streaming_samples")
        if self.lanes < 1:
            raise ValueError(f"lanes must be at least 1, got {self.lanes}")
        if streaming and self.lanes != 1:
            raise ValueError("lanes divide the order of an indexed set; they have no effect with streaming_samples")
        if isinstance(self.stats, tuple):
            mean, std = self.stats
            if not 0 < len(mean) == len(std):
                raise ValueError(f"stats lists one mean and one deviation for each channel, got {self.stats}")
            if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
                raise ValueError(
                    "stats are in 0..1 units, means from 0 to 1 and deviations above 0 up to 1 (numbers of 0..255"
                    f" divided by 255); got {self.stats}"
                )


@schema
class LabelledDataConfig(DataConfig, LabelledPackingConfig):
    val_path: str | None
    """Labelled images for validation; null uses path/val, path/valid or path/test, else holds out val_ratio."""
    labels_per_class: Count | None
    """Train on this many images of each class, chosen by the run's seed; null is all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.val_path == "":
            raise ValueError("val_path is empty. Name a directory, or null to hold out a part of path")
        if self.mix or self.streaming_samples is not None:
            raise ValueError(
                "mix and streaming_samples are for pretraining; fine-tuning reads one labelled, indexed set"
            )
        if self.val_ratio == 0:
            raise ValueError("val_ratio=0 is for pretraining; fine-tuning is judged on images it has not seen")
