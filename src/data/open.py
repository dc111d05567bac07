"""From whatever `data.path` names to open shard sets. Folders are packed once into a cache and reused."""

import logging
from pathlib import Path

from data.config import DataConfig
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
from swinmim.errors import DataError

DIGITS = "builtin:digits"
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")

log = logging.getLogger(__name__)


def open_source(
    path: str | Path,
    cache_dir: str | Path,
    options: WriteOptions | None = None,
    *,
    cache_bytes: int = 100_000_000_000,
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
    cache_bytes: int = 100_000_000_000,
    allow_insecure: bool = False,
) -> tuple[ShardSet, ShardSet | None]:
    """Open a labelled source for fine-tuning.

    A directory with `train` and one of `val`, `valid`, `validation`, `test` gives both; anything else gives one set and
    None, to be split with `order.split`. Folders are packed with their original pixels unless `options` says otherwise.

    Raises:
        DataError: as `open_source`; no labels; or classes that differ between the two.
    """
    options = options or WriteOptions(resize=None)
    if is_url(str(path)):
        found = open_source(path, cache_dir, options, cache_bytes=cache_bytes, allow_insecure=allow_insecure)
        return require_labels(found), None
    root = Path(path)
    train_dir = next((root / name for name in TRAIN_NAMES if (root / name).is_dir()), None)
    val_dir = next((root / name for name in VAL_NAMES if (root / name).is_dir()), None)
    if is_shard_set(root) or train_dir is None or val_dir is None:
        return require_labels(open_source(path, cache_dir, options)), None
    train = require_labels(open_source(train_dir, cache_dir, options))
    if is_shard_set(val_dir):
        val = ShardSet.open(val_dir)
        if val.classes != train.classes:
            raise DataError(
                f"Both splits must have the same classes in the same order; {train_dir} and {val_dir} differ."
            )
    else:
        val = ShardSet.open(pack(val_dir, cache_dir, options, train.classes))
    return train, require_labels(val)


def write_digits(cache_dir: str | Path) -> Path:
    """Write the digits once as a shard set of 32x32 RGB PNGs with classes "0".."9"; returns its directory."""
    from data.write.writer import WriteOptions

    return packed(Path(cache_dir) / f"digits-{SIDE}", read_digits, WriteOptions(resize=None, workers=1))
