"""A folder or list of images, packed once into a cache and reused."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data.codecs.targets import IGNORED, Needs
from data.shards.lock import shared_lock
from data.shards.manifest import VERSION, is_shard_set
from data.sources.annotated import LAYOUTS, read_annotated
from data.sources.folder import read_folder
from data.sources.listing import SUFFIXES, read_list
from data.sources.source import FileSource, Source
from data.write.left_out import TooManyLeftOut
from data.write.writer import WriteOptions, progress_bar, write_shards
from swinmim.distributed import is_main
from swinmim.errors import DataError, UserError
from swinmim.outside import one_line, printable
from swinmim.paths import shell_quoted

_NAME_BYTES = 200  # of a folder's; leaves room for what stands behind it


def _say(text: str) -> None:
    if is_main():
        print(printable(text), flush=True)


@contextmanager
def _writing(cache: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"Folders are packed into data.cache_dir, but {error.filename or cache} cannot be written"
            f" ({error.strerror or error}). Make room, or choose another data.cache_dir; the next start goes on."
        ) from error


def packed(dest: Path, read: Callable[[], Source], options: WriteOptions, label: str = "packing") -> Path:
    """The shard set at `dest`, written now if it is not there; safe to call from many processes at once."""
    with _writing(dest.parent):
        dest.parent.mkdir(parents=True, exist_ok=True)
        if is_shard_set(dest):
            _say(f"using the packed images in {dest}")
            return dest
        with shared_lock(dest):
            if is_shard_set(dest):  # another process wrote it while this one waited
                return dest
            partial = dest.with_name(f"{dest.name}.partial")  # the lock keeps others out; a killed packing goes on here
            try:
                with progress_bar(label) as progress:
                    report = write_shards(read(), partial, options, progress, setting="data.max_bad_fraction=")
            except TooManyLeftOut:
                raise  # the next start goes on here
            except UserError:
                shutil.rmtree(partial, ignore_errors=True)
                raise
            partial.rename(dest)
    _say(f"{report}; packed into {dest}{report.left_out(dest)}")
    return dest


def _cache_name(source: FileSource, options: WriteOptions) -> str:
    listing = [(i.name, i.label, i.size, i.mtime_ns, *filter(None, [i.target])) for i in source.items]
    clips = ["clips"] * source.clips
    text = json.dumps([VERSION, str(source.root.resolve()), options.recorded(), source.classes, listing, *clips])
    name = source.root.resolve().name.encode()[:_NAME_BYTES].decode(errors="ignore") or "root"
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def listed(
    folder: str | Path,
    classes: tuple[str, ...] | None = None,
    needs: Needs = "nothing",
    ignore_index: int = IGNORED,
) -> FileSource:
    """What `pack` would pack; arguments as there. Raises DataError: path missing, no images, no masks or boxes where
    these are needed, or other classes."""
    is_list = Path(folder).suffix.lower() in SUFFIXES and Path(folder).is_file()
    if is_list:
        return read_list(Path(folder), needs, ignore_index)
    if Path(folder).is_file():
        raise DataError(
            f"data.path is a folder of images, a list ({', '.join(SUFFIXES)}) or a shard set, got the file {folder}. "
            f"Tars are written first: python -m data.write {shell_quoted(folder)} SHARDS, then data.path=SHARDS."
        )
    found = read_annotated(Path(folder), needs, classes, ignore_index)
    if found is None and needs in LAYOUTS:
        read_folder(folder)  # that nothing is there at all is said first
        raise DataError(f"This task needs {needs} with each image; {folder} has none. Give {LAYOUTS[needs]}.")
    return found or read_folder(folder, classes, clips=needs == "clip")


def pack(
    folder: str | Path,
    cache_dir: str | Path,
    options: WriteOptions | None = None,
    classes: tuple[str, ...] | None = None,
    needs: Needs = "nothing",
    ignore_index: int = IGNORED,
) -> Path:
    """Pack a folder or list of images into `cache_dir`, or find it there; says which, with what was found.

    The copy is reused as long as the listing (paths, sizes, times) and the options stay the same. `needs` names the
    targets that are looked for beside the images of a folder, `ignore_index` the value in mask files without a class.

    Raises:
        TooManyLeftOut: more unusable files than the options allow; the next call goes on where this one ended.
        DataError: path missing, no images, nothing usable, or classes that differ from `classes`.
    """
    options = options or WriteOptions()
    source = listed(folder, classes, needs, ignore_index)
    dest = Path(cache_dir) / _cache_name(source, options)
    if options.channels not in (1, 3) and not is_shard_set(dest):
        _say(
            f"packing {options.channels} bands of 8 bits; 16-bit values count from 0 to 65535. For another range, or to"
            f" keep 16 bits: python -m data.write {shell_quoted(source.root)} SHARDS --channels {options.channels}"
            " --value-range LOW HIGH --bits 16, and data.path=SHARDS"
        )
    return packed(dest, lambda: source, options, one_line(f"packing {source.root.name}"))
