"""Settings of the data: the `data` group of both commands."""

from pathlib import Path
from typing import Literal

from swinmim.config import schema


@schema
class DataConfig:
    path: str
    """A tree of images, a shard set (directory with manifest.json), or builtin:digits."""
    val_ratio: float
    """Share of the set that is held out for validation; always the same images, whatever the run's seed."""
    cache_dir: str | None
    """Where folders are packed into shards; null is ~/.cache/swinmim."""
    pack_resize: int | None
    """Shorter side in pixels of the packed images; null keeps the originals."""
    pack_quality: int
    """JPEG quality of images that are resized while packing."""
    stats: Literal["auto", "imagenet"]
    """Normalisation. auto: the pretrained encoder's own where there is one, else the set's."""
    num_workers: int
    max_bad_fraction: float
    """Share of undecodable images beyond which the run stops."""

    def __post_init__(self) -> None:
        if not 0 < self.val_ratio < 1:
            raise ValueError(f"val_ratio must lie between 0 and 1, got {self.val_ratio}")
        if self.num_workers < 0:
            raise ValueError(f"num_workers must not be negative, got {self.num_workers}")

    def cache_folder(self) -> Path:
        return Path(self.cache_dir).expanduser() if self.cache_dir else Path.home() / ".cache" / "swinmim"


@schema
class LabelledDataConfig(DataConfig):
    val_path: str | None
    """Labelled images for validation; null uses path/val, path/valid or path/test, else holds out val_ratio."""
    labels_per_class: int | None
    """Train on this many images of each class, chosen by the run's seed; null is all."""
