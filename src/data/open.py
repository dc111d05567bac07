"""From whatever `data.path` names to open sets, and from those to the loaders of a run.

Folders are packed once into a cache and reused. Only here it is decided whether images are indexed or streamed.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from data.codecs.formats import CLIPS
from data.codecs.targets import IGNORED, WITHOUT_TARGET, Needs
from data.config import DataConfig, LabelledDataConfig, LabelledPackingConfig, PackingConfig
from data.loading.batch import LoaderSettings
from data.loading.module import Part, ShardData, StreamData
from data.loading.views import View
from data.order.subsets import few_labels, split
from data.processes import default_workers
from data.shards.cache import open_remote
from data.shards.local import ShardSet
from data.shards.manifest import is_shard_set
from data.shards.mixed import MixedSet
from data.shards.remote import is_url
from data.shards.set import SampleSet
from data.shards.streamed import StreamSet
from data.sources.annotated import LAYOUTS
from data.sources.digits import DIGITS, SIDE, read_digits, target_of
from data.write.pack import listed, pack, packed
from data.write.writer import WriteOptions
from swinmim.errors import ConfigError, DataError

TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")
"""Of a split's folder, maybe with a year behind them (train2017)."""


def open_source(
    path: str | Path,
    config: PackingConfig,
    channels: int = 3,
    needs: Needs = "nothing",
    classes: tuple[str, ...] | None = None,
) -> ShardSet:
    """Open "builtin:digits", a shard set here or on a server, or a folder of images of any shape, which is packed
    into the cache first, with so many channels and the targets that are needed; its classes are among `classes`, which
    then are the set's.

    Raises:
        DataError: the path is none of these, or holds nothing usable.
    """
    cache = config.cache_folder()
    if str(path) == DIGITS:
        return ShardSet.open(_pack_digits(cache, needs))
    if str(path).startswith("builtin:"):
        raise DataError(f"The built-in sets are: {DIGITS}; got {path}.")
    if is_url(str(path)):
        return open_remote(str(path), cache / "remote", config.cache_bytes, config.allow_insecure)
    if is_shard_set(Path(path)):
        return ShardSet.open(path)
    return ShardSet.open(_pack(path, config, channels, needs, classes))


def _pack_digits(cache: Path, needs: Needs) -> Path:
    kind = target_of(needs)
    name = f"digits-{SIDE}" + (f"-{kind}" if kind else "")
    return packed(cache / name, lambda: read_digits(needs), WriteOptions(resize=None, workers=1))


def _pack(
    path: str | Path, config: PackingConfig, channels: int, needs: Needs, classes: tuple[str, ...] | None = None
) -> Path:
    ignore_index = config.ignore_index if isinstance(config, LabelledPackingConfig) else IGNORED
    return pack(path, config.cache_folder(), _options(config, channels), classes, needs, ignore_index)


def _extent(path: str | Path, config: DataConfig, needs: Needs = "nothing") -> tuple[int, int]:
    """Images and classes of a source as its listing or manifest counts them; nothing is packed. Raises DataError."""
    if str(path) == DIGITS:
        digits = read_digits(needs)
        return len(digits.items), len(digits.classes)
    if is_url(str(path)) or is_shard_set(Path(path)):
        shards = open_source(path, config)
        return len(shards), len(shards.classes)
    source = listed(path, needs=needs)
    return len(source.items), len(source.classes)


def num_listed(config: DataConfig) -> int:
    """How many images a pretraining run has, if none is damaged; nothing is packed for it. Raises DataError."""
    if config.streaming_samples is not None:
        return config.streaming_samples
    total = sum(_extent(path, config)[0] for path in (config.path, *(part.path for part in config.mix)))
    return len(split(total, config.val_ratio, seed=0)[0])


def num_labelled(config: LabelledDataConfig, needs: Needs) -> int:
    """The same of a fine-tuning run."""
    train, val = _split_folders(config.path)
    images, classes = _extent(train, config, needs)
    if val is None and config.val_path is None:
        images = len(split(images, config.val_ratio, seed=0)[0])
    return images if config.labels_per_class is None else min(images, config.labels_per_class * classes)


def _options(config: PackingConfig, channels: int) -> WriteOptions:
    return WriteOptions(
        resize=config.pack_resize,
        quality=config.pack_quality,
        max_pixels=config.max_pixels,
        channels=channels,
        max_bad_ratio=config.max_bad_fraction,
    )


def open_data(config: DataConfig, channels: int = 3) -> SampleSet | StreamSet:
    """Open what the settings name for pretraining: a source of any kind, or a mixture of several; folders are packed
    with so many channels.

    Raises:
        DataError: one of them cannot be opened or holds clips, or they have different channels.
    """
    if config.streaming_samples is not None:
        measured = {} if config.stats == "auto" else {"measured": 1}
        return StreamSet(
            config.path,
            config.streaming_samples,
            allow_insecure=config.allow_insecure,
            max_pixels=config.max_pixels,
            **measured,
        )
    paths = config.path, *(part.path for part in config.mix)
    sets = [_require(open_source(path, config, channels), "nothing") for path in paths]
    return MixedSet(sets, [1.0, *(part.weight for part in config.mix)]) if config.mix else sets[0]


def _split_folders(path: str) -> tuple[str | Path, Path | None]:
    """Where a source has its training and its validation images: folders in it, or itself and None."""
    if not is_url(path) and not is_shard_set(Path(path)):
        for root in (Path(path), Path(path) / "images"):
            train, val = (next(_named(root, names), None) for names in (TRAIN_NAMES, VAL_NAMES))
            if train and val:
                return train, val
    return path, None


def open_labelled(
    path: str,
    config: PackingConfig,
    needs: Needs,
    channels: int = 3,
    *,
    validates: bool = True,
    classes: tuple[str, ...] | None = None,
) -> tuple[ShardSet, ShardSet | None]:
    """Open a source for fine-tuning; of classes that are known, or of those that are found.

    A directory with `train` and one of `val`, `valid`, `validation`, `test`, or with these in its `images`, gives both;
    anything else gives one set and None, to be split with `order.split`. validates: open the one to validate on too,
    where there is one.

    Raises:
        DataError: as `open_source`; not what the task needs; or a folder with classes that `train` lacks.
    """
    train_path, val_dir = _split_folders(path)
    train = _require(open_source(train_path, config, channels, needs, classes), needs)
    if val_dir is None or not validates:
        return train, None
    if not is_shard_set(val_dir):
        val_dir = _pack(val_dir, config, channels, needs, train.classes)
    return train, _require(ShardSet.open(val_dir), needs)


def _named(root: Path, names: Sequence[str]) -> Iterator[Path]:
    for name in names:
        yield from filter(Path.is_dir, [root / name, *sorted(root.glob(f"{name}[0-9][0-9][0-9][0-9]"))])


def _require(shards: ShardSet, needs: Needs) -> ShardSet:
    what, suffix = ("clip", CLIPS[0]) if needs == "clip" else ("image", "jpg")
    if shards.clips != (what == "clip"):
        raise DataError(
            f"{shards.path} holds clips, which only task=video reads. Give a set of images."
            if shards.clips
            else f"task=video needs clips; {shards.path} holds images. Give a set or a folder of {', '.join(CLIPS)}."
        )
    if needs in ("label", "clip") and not (shards.classes and len(shards) and shards.labels.min() >= 0):
        raise DataError(
            f"finetune needs labels; {shards.path} has none for some or all {what}s. Put each {what} into a folder"
            f" named after its class: DIR/cat/1.{suffix}, DIR/dog/2.{suffix}."
        )
    if needs not in (*WITHOUT_TARGET, shards.target):
        layouts = f", or give the folder of {LAYOUTS[needs]}" if needs in LAYOUTS else ""
        raise DataError(
            f"This task needs {needs} with each image; {shards.path} has {shards.target or 'none'}. Write the set from"
            f" a source that has them (python -m data.write){layouts}."
        )
    return shards


def loader_settings(
    config: DataConfig,
    resolution: tuple[int, int],
    *,
    seed: int,
    global_batch: int,
    batch_size: int,
    processes: int = 1,
    needs: Needs = "nothing",
) -> LoaderSettings:
    """The loaders of a run of so many processes a machine, as the settings of the data ask for them; a target that
    nothing needs is not decoded."""
    return LoaderSettings(
        resolution=resolution,
        seed=seed,
        global_batch=global_batch,
        batch_size=batch_size,
        num_workers=default_workers(processes) if config.num_workers is None else config.num_workers,
        max_bad_fraction=config.max_bad_fraction,
        lanes=config.lanes,
        decoder=config.decoder,
        max_pixels=config.max_pixels,
        targets=needs not in WITHOUT_TARGET,
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


def labelled_parts(config: LabelledDataConfig, *, seed: int, channels: int, needs: Needs) -> tuple[Part, Part]:
    """What a fine-tuning run trains and validates on: two sets, or one divided, and a few labels chosen where asked.

    Args:
        config: where they are.
        seed: of the run; it chooses the few labels.
        channels: that the encoder takes; folders are packed with as many.
        needs: what every sample must have.

    Raises:
        ConfigError: the set's channels are not the encoder's.
        DataError: as `open_labelled`, classes that differ, or too few labels.
    """
    train, val = open_labelled(config.path, config, needs, channels, validates=config.val_path is None)
    train_indices = val_indices = None
    if config.val_path is not None:
        val, _ = open_labelled(config.val_path, config, needs, channels, validates=False, classes=train.classes)
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
