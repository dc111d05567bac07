"""From whatever `data.path` names to open shard sets. Folders are packed once into a cache and reused."""

import fcntl
import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from data.cache import open_remote
from data.config import DataConfig
from data.folder import FolderSource, read_folder
from data.mix import MixedSet
from data.remote import is_url
from data.shards import VERSION, ShardSet, is_shard_set
from data.stream import StreamSet
from data.write import Source, WriteOptions, progress_bar, write_shards
from swinmim.distributed import is_main
from swinmim.errors import DataError, UserError

DIGITS = "builtin:digits"
TRAIN_NAMES = ("train", "training")
VAL_NAMES = ("val", "valid", "validation", "test")

log = logging.getLogger(__name__)


def _say(text: str) -> None:
    if is_main():
        print(text, flush=True)


def packed(dest: Path, read: Callable[[], Source], options: WriteOptions, label: str = "packing") -> Path:
    """The shard set at `dest`, written now if it is not there; safe to call from many processes at once."""
    dest.parent.mkdir(parents=True, exist_ok=True)
    if is_shard_set(dest):
        _say(f"using the packed images in {dest}")
        return dest
    with open(dest.with_name(dest.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_shard_set(dest):  # another process wrote it while this one waited
            return dest
        partial = dest.with_name(f"{dest.name}.partial")  # the lock keeps others out; a killed packing goes on here
        try:
            with progress_bar(label) as progress:
                report = write_shards(read(), partial, options, progress)
        except UserError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        except OSError as error:
            raise DataError(
                f"Folders are packed into data.cache_dir, but {error.filename or partial} cannot be written"
                f" ({error.strerror or error}). Make room, or choose another data.cache_dir; the next start goes on."
            ) from error
        partial.rename(dest)
    _say(f"{report}; packed into {dest}" + (f" (reasons in {dest / 'bad.jsonl'})" if report.skipped else ""))
    return dest


def _cache_name(source: FolderSource, options: WriteOptions) -> str:
    listing = [(item.name, item.label, item.size, item.mtime_ns) for item in source.items]
    text = json.dumps([VERSION, str(source.root.resolve()), options.recorded(), source.classes, listing])
    return f"{source.root.resolve().name or 'root'}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def pack(
    folder: str | Path,
    cache_dir: str | Path,
    options: WriteOptions | None = None,
    classes: tuple[str, ...] | None = None,
) -> Path:
    """Pack a folder of images into `cache_dir`, or find it there; says which, with what was found.

    The copy is reused as long as the listing (paths, sizes, times) and the options stay the same.

    Raises:
        DataError: path missing, no images, nothing usable, or classes that differ from `classes`.
    """
    options = options or WriteOptions()
    source = read_folder(folder, classes)
    dest = Path(cache_dir) / _cache_name(source, options)
    return packed(dest, lambda: source, options, f"packing {source.root.name}")


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
        from data.digits import write_digits  # pulls in Pillow's and scikit-learn's parts only when wanted

        return ShardSet.open(write_digits(cache_dir))
    if str(path).startswith("builtin:"):
        raise DataError(f"The built-in sets are: {DIGITS}; got {path}.")
    if is_url(str(path)):
        return open_remote(str(path), Path(cache_dir) / "remote", cache_bytes, allow_insecure)
    if is_shard_set(Path(path)):
        return ShardSet.open(path)
    return ShardSet.open(pack(path, cache_dir, options))


def open_data(config: DataConfig) -> ShardSet:
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


def require_labels(shards: ShardSet) -> ShardSet:
    """The set itself, when every sample has a label.

    Raises:
        DataError: otherwise.
    """
    if not shards.classes or len(shards) == 0 or int(shards.labels.min()) < 0:
        raise DataError(
            f"finetune needs labels; {shards.path} has none for some or all images. Put each image into a folder named"
            " after its class: DIR/cat/1.jpg, DIR/dog/2.jpg."
        )
    return shards
