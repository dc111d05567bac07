"""From whatever `data.path` names to open sets, and from those to the loaders of a run.

Folders are packed once into a cache and reused. Only here it is decided whether images are indexed or streamed.
"""

from functools import partial
from pathlib import Path
from typing import Literal

from data.codecs.targets import TargetKind
from data.config import CACHE_BYTES, DataConfig, LabelledDataConfig
from data.loading.batch import LoaderSettings
from data.loading.module import Part, ShardData, StreamData
from data.loading.views import View
from data.order.subsets import few_labels, split
from data.shards.cache import open_remote
from data.shards.local import ShardSet
from data.shards.manifest import is_shard_set
from data.shards.mixed import MixedSet
from data.shards.remote import is_url
from data.shards.set import SampleSet, require_labels
from data.shards.streamed import StreamSet
from data.sources.digits import SIDE, read_digits
from data.write.pack import pack, packed
from data.write.writer import WriteOptions
from swinmim.errors import ConfigError, DataError

DIGITS = "builtin:digits"
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")

Needs = Literal["nothing", "label"] | TargetKind
"""What a task is taught with: nothing, one class for each image, or a target."""


def open_source(
    path: str | Path,
    cache_dir: str | Path,
    options: WriteOptions | None = None,
    *,
    cache_bytes: int = CACHE_BYTES,
    allow_insecure: bool = False,
) -> ShardSet:
    """Open "builtin:digits", a shard set here or on a server, or a folder of images of any shape, which is
    packed into `cache_dir` first.

    Raises:
        DataError: the path is none of these, or holds nothing usable.
    """
    if str(path) == DIGITS:
        return ShardSet.open(write_digits(cache_dir))
    if str(path).startswith("builtin:"):
        raise DataError(f"The built-in sets are: {DIGITS}; got {path}.")
    if is_url(str(path)):
        return open_remote(str(path), Path(cache_dir) / "remote", cache_bytes, allow_insecure)
    if is_shard_set(Path(path)):
        return ShardSet.open(path)
    return ShardSet.open(pack(path, cache_dir, options))


def open_data(config: DataConfig) -> SampleSet | StreamSet:
    """Open what the settings name for pretraining: a source of any kind, or a mixture of several.

    Raises:
        DataError: one of them cannot be opened, or they have different channels.
    """
    if config.streaming_samples is not None:
        return StreamSet(config.path, config.streaming_samples, allow_insecure=config.allow_insecure)
    options = WriteOptions(resize=config.pack_resize, quality=config.pack_quality)
    sets = [
        open_source(
            path,
            config.cache_folder(),
            options,
            cache_bytes=config.cache_bytes,
            allow_insecure=config.allow_insecure,
        )
        for path in (config.path, *(part.path for part in config.mix))
    ]
    return MixedSet(sets, [1.0, *(part.weight for part in config.mix)]) if config.mix else sets[0]


def open_labelled(
    path: str | Path,
    cache_dir: str | Path,
    options: WriteOptions | None = None,
    *,
    cache_bytes: int = CACHE_BYTES,
    allow_insecure: bool = False,
    needs: Needs = "label",
) -> tuple[ShardSet, ShardSet | None]:
    """Open a source for fine-tuning.

    A directory with `train` and one of `val`, `valid`, `validation`, `test` gives both; anything else gives one set and
    None, to be split with `order.split`. Folders are packed with their original pixels unless `options` says otherwise.

    Raises:
        DataError: as `open_source`; not what the task needs; or classes that differ between the two.
    """
    options = options or WriteOptions(resize=None)
    if is_url(str(path)):
        found = open_source(path, cache_dir, options, cache_bytes=cache_bytes, allow_insecure=allow_insecure)
        return _require(found, needs), None
    root = Path(path)
    train_dir = next((root / name for name in TRAIN_NAMES if (root / name).is_dir()), None)
    val_dir = next((root / name for name in VAL_NAMES if (root / name).is_dir()), None)
    if is_shard_set(root) or train_dir is None or val_dir is None:
        return _require(open_source(path, cache_dir, options), needs), None
    train = _require(open_source(train_dir, cache_dir, options), needs)
    if is_shard_set(val_dir):
        val = ShardSet.open(val_dir)
        if val.classes != train.classes:
            raise DataError(
                f"Both splits must have the same classes in the same order; {train_dir} and {val_dir} differ."
            )
    else:
        val = ShardSet.open(pack(val_dir, cache_dir, options, train.classes))
    return train, _require(val, needs)


def _require(shards: ShardSet, needs: Needs) -> ShardSet:
    match needs:
        case "nothing":
            return shards
        case "label":
            return require_labels(shards)
        case kind if kind == shards.target:
            return shards
    raise DataError(
        f"This task needs {needs} with each image; {shards.path} has {shards.target or 'none'}. Write the set from a"
        " source that has them (python -m data.write)."
    )


def loader_settings(
    config: DataConfig, resolution: tuple[int, int], *, seed: int, global_batch: int, batch_size: int
) -> LoaderSettings:
    """The loaders of a run, as the settings of the data ask for them."""
    return LoaderSettings(
        resolution=resolution,
        seed=seed,
        global_batch=global_batch,
        batch_size=batch_size,
        num_workers=config.num_workers,
        max_bad_fraction=config.max_bad_fraction,
        lanes=config.lanes,
        decoder=config.decoder,
    )


def pretrain_data(
    config: DataConfig, shards: SampleSet | StreamSet, train_view: View, eval_view: View, settings: LoaderSettings
) -> ShardData | StreamData:
    """The data of a pretraining run; the part that is held out is the same for every run on the set.

    Args:
        config: what to hold out.
        shards: what `open_data` returned for it.
        train_view, eval_view, settings: see `ShardData`.

    Raises:
        DataError, ConfigError: as `ShardData`.
    """
    if shards.streams:
        return StreamData(shards, train_view, settings)
    train, held_out = split(len(shards), config.val_ratio, seed=0)
    return ShardData(Part(shards, train), Part(shards, held_out), train_view, eval_view, settings)


def labelled_parts(
    config: LabelledDataConfig, *, seed: int, channels: int, needs: Needs = "label"
) -> tuple[Part, Part]:
    """What a fine-tuning run trains and validates on: two sets, or one divided, and a few labels chosen where asked.

    Args:
        config: where they are.
        seed: of the run; it chooses the few labels.
        channels: that the encoder takes.
        needs: what every sample must have.

    Raises:
        ConfigError: the set's channels are not the encoder's.
        DataError: as `open_labelled`, classes that differ, or too few labels.
    """
    options = WriteOptions(resize=config.pack_resize, quality=config.pack_quality)
    fetch = partial(
        open_labelled,
        cache_dir=config.cache_folder(),
        options=options,
        cache_bytes=config.cache_bytes,
        allow_insecure=config.allow_insecure,
        needs=needs,
    )
    train, val = fetch(config.path)
    train_indices = val_indices = None
    if config.val_path is not None:
        val, _ = fetch(config.val_path)
    elif val is None:
        val = train
        train_indices, val_indices = split(len(train), config.val_ratio, seed=0)
    if train.channels != channels:
        raise ConfigError(f"{config.path} has {train.channels} channels and the encoder takes {channels}.")
    if train.classes != val.classes:
        raise DataError(f"Training and validation must have the same classes; {train.path} and {val.path} differ.")
    if config.labels_per_class is not None:
        labels = train.labels if train_indices is None else train.labels[train_indices]
        chosen = few_labels(labels.astype("int64"), config.labels_per_class, seed)
        train_indices = chosen if train_indices is None else train_indices[chosen]
    return Part(train, train_indices), Part(val, val_indices)


def write_digits(cache_dir: str | Path) -> Path:
    """Write the digits once as a shard set of 32x32 RGB PNGs with classes "0".."9"; returns its directory."""
    return packed(Path(cache_dir) / f"digits-{SIDE}", read_digits, WriteOptions(resize=None, workers=1))
