"""Write a shard set: python -m data.write SOURCE DESTINATION

Everything is planned before the first file is read: a sorted listing, a seeded shuffle, and which sample goes into
which shard under which key. Writers then work on whole shards, so the result is the same, byte for byte, for any number
of them. A shard appears under its name only when it is complete, and the manifest only when all shards are.
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import sys
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Protocol

from data.decode import DecodeError
from data.encode import EncodeOptions, encode
from data.folder import Item, read_folder
from data.order import permutation
from data.shards import BLOCK, MANIFEST, SUFFIXES, VERSION, Shard, index_bytes, is_shard_set
from swinmim.errors import DataError, UserError

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


class Source(Protocol):
    """Where images come from. Must be picklable: each writer gets a copy."""

    @property
    def items(self) -> Sequence[Item]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def folders(self) -> int: ...
    @property
    def skipped(self) -> tuple[tuple[str, str], ...]: ...
    def load(self, position: int) -> bytes: ...


@dataclass(frozen=True)
class WriteOptions(EncodeOptions):
    """Options of `write_shards`, with those of `EncodeOptions`.

    seed: of the shuffle.
    shard_samples, shard_bytes: a shard is closed before it passes either; bytes are counted in the source files.
    workers: writer processes; 0 for as many as cores. Does not change the result.
    """

    seed: int = 0
    shard_samples: int = 2500
    shard_bytes: int = 256_000_000
    workers: int = 0

    def recorded(self) -> dict[str, Any]:
        """What changes the result."""
        return {name: value for name, value in asdict(self).items() if name != "workers"}


@dataclass(frozen=True)
class WriteReport:
    """What was written: images, the folders they lay in, (file, reason) of each skipped file, number of shards."""

    found: int
    folders: int
    skipped: tuple[tuple[str, str], ...]
    shards: int

    def __str__(self) -> str:
        return f"found {self.found:,} images in {self.folders:,} folders, {len(self.skipped):,} skipped"


@dataclass
class _Part:
    """The result of one shard."""

    shard: Shard
    pixels: int = 0
    total: list[int] = field(default_factory=lambda: [0, 0, 0])
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])
    bad: list[tuple[str, str]] = field(default_factory=list)


def plan(items: Sequence[Item], options: WriteOptions) -> list[list[int]]:
    """Positions of the items of each shard, in the order in which they are written."""
    shards: list[list[int]] = [[]]
    held = 0
    for position in permutation(len(items), "write", options.seed).tolist():
        size = items[position].size
        if shards[-1] and (len(shards[-1]) >= options.shard_samples or held + size > options.shard_bytes):
            shards.append([])
            held = 0
        shards[-1].append(position)
        held += size
    return shards


class _TarFile:
    """A tar that is the same bytes whenever and by whomever it is written (USTAR, no times, no owners)."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self.size = 0

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns where its data begins."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data + bytes(-len(data) % BLOCK))
        return offset

    def close(self) -> str:
        """End the archive, put it on the disk, and return its sha256."""
        self._write(bytes(2 * BLOCK + -(self.size + 2 * BLOCK) % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()


def _write_file(path: Path, data: bytes) -> None:
    """Write through a temporary name, so that the name never shows half a file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def _write_shard(
    source: Source,
    dest: Path,
    number: int,
    first: int,
    positions: Sequence[int],
    options: WriteOptions,
    tick: Callable[[], None],
) -> _Part:
    name = f"train-{number:06d}.tar"
    partial = dest / (name + ".partial")
    tar = _TarFile(partial)
    part = _Part(Shard(name, 0, 0, "", ""))
    rows: list[tuple[int, int, int, int]] = []
    for place, position in enumerate(positions):
        item = source.items[position]
        try:
            done = encode(source.load(position), options)
        except (DecodeError, OSError) as error:
            part.bad.append((item.name, str(error)))
        else:
            key = f"{first + place:09d}"
            offset = tar.add(f"{key}.{done.suffix}", done.data)
            rows.append((offset, len(done.data), item.label, SUFFIXES.index(done.suffix)))
            if source.classes:
                tar.add(f"{key}.cls", str(item.label).encode())
            part.pixels += done.pixels
            part.total = [a + b for a, b in zip(part.total, done.total, strict=True)]
            part.squares = [a + b for a, b in zip(part.squares, done.squares, strict=True)]
        tick()
    sha256 = tar.close()
    partial.rename(dest / name)
    index = index_bytes(rows)
    part.shard = Shard(name, len(rows), tar.size, sha256, hashlib.sha256(index).hexdigest())
    _write_file(dest / part.shard.index_name, index)
    return part


class _Worker:
    """What a writer process holds between shards."""

    source: Source
    done: "Synchronized[int]"

    @classmethod
    def start(cls, source: Source, done: "Synchronized[int]") -> None:
        cls.source, cls.done = source, done

    @classmethod
    def tick(cls) -> None:
        with cls.done.get_lock():
            cls.done.value += 1

    @classmethod
    def write(cls, dest: Path, number: int, first: int, positions: list[int], options: WriteOptions) -> _Part:
        return _write_shard(cls.source, dest, number, first, positions, options, cls.tick)


def _write_all(
    source: Source, dest: Path, shards: list[list[int]], options: WriteOptions, progress: Progress
) -> list[_Part]:
    workers = min(options.workers or os.cpu_count() or 1, len(shards))
    firsts = [0]
    for positions in shards:
        firsts.append(firsts[-1] + len(positions))
    total, count = firsts[-1], 0

    def tick() -> None:
        nonlocal count
        count += 1
        progress(count, total)

    if workers == 1:
        return [_write_shard(source, dest, n, firsts[n], p, options, tick) for n, p in enumerate(shards)]
    # Fresh processes: a fork of a program with threads (torch, progress bars) may hang.
    context = multiprocessing.get_context("spawn")
    done = context.Value("q", 0)
    with ProcessPoolExecutor(workers, context, _Worker.start, (source, done)) as pool:
        jobs = [pool.submit(_Worker.write, dest, n, firsts[n], p, options) for n, p in enumerate(shards)]
        parts = []
        for job in jobs:
            while True:
                try:
                    parts.append(job.result(timeout=0.5))
                    break
                except TimeoutError:
                    progress(done.value, total)
        progress(total, total)
        return parts


def _statistics(parts: list[_Part]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, in 0..1 units, over all pixels of all images."""
    pixels = sum(part.pixels for part in parts)
    mean, std = [], []
    for channel in range(3):
        first = sum(part.total[channel] for part in parts) / pixels
        second = sum(part.squares[channel] for part in parts) / pixels
        mean.append(round(first / 255, 6))
        # A constant channel would divide by zero later.
        std.append(round(max(math.sqrt(max(second - first**2, 0.0)) / 255, 1 / 255), 6))
    return mean, std


def write_shards(
    source: Source | str | Path, dest: str | Path, options: WriteOptions | None = None, progress: Progress | None = None
) -> WriteReport:
    """Write all images of `source` as a shard set.

    Files that are not usable images are skipped and listed, with the reason, in `bad.jsonl` beside the shards.

    Args:
        source: a folder, or any `Source`.
        dest: a new or empty directory.
        options: see `WriteOptions`.
        progress: called with (images done, images in all).

    Raises:
        DataError: the source has no usable image; or `dest` already holds something.
    """
    options = options or WriteOptions()
    dest = Path(dest)
    if isinstance(source, str | Path):
        source = read_folder(source)
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        what = "already a shard set" if is_shard_set(dest) else "not an empty directory"
        raise DataError(f"Shards are written into a new directory, {dest} is {what}. Choose another or remove it.")
    dest.mkdir(parents=True, exist_ok=True)
    parts = _write_all(source, dest, plan(source.items, options), options, progress or (lambda done, total: None))
    bad = sorted(entry for part in parts for entry in part.bad)
    skipped = tuple(sorted([*source.skipped, *bad]))
    _write_file(dest / "bad.jsonl", "".join(json.dumps({"source": n, "reason": r}) + "\n" for n, r in skipped).encode())
    found = sum(part.shard.samples for part in parts)
    if found == 0:
        reasons = "\n  ".join(f"{name}: {reason}" for name, reason in bad[:5])
        raise DataError(f"No usable image among {len(source.items)} files. The first reasons:\n  {reasons}")
    mean, std = _statistics(parts)
    manifest = {
        "format": "swinmim-shards",
        "version": VERSION,
        "samples": found,
        "channels": 3,
        "mean": mean,
        "std": std,
        "classes": list(source.classes),
        "options": options.recorded(),
        "skipped": len(skipped),
        "shards": [part.shard._asdict() for part in parts],
    }
    _write_file(dest / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return WriteReport(found, source.folders, skipped, len(parts))


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """A bar with images/s and the time left, on stderr; silent when that is not a terminal."""
    from tqdm import tqdm  # the library use of this module needs no bar

    with tqdm(desc=label, unit=" images", disable=None, smoothing=0.1) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield progress


def _resize(text: str) -> int | None:
    return None if text == "none" else int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    defaults = WriteOptions()
    parser = argparse.ArgumentParser(
        prog="python -m data.write", description="Write a folder of images as a shard set."
    )
    parser.add_argument(
        "source", help="folder of images, any depth; first-level directories are classes if all images lie in one"
    )
    parser.add_argument("dest", help="new directory for the shards")
    parser.add_argument(
        "--resize", type=_resize, default=defaults.resize, help="shorter side in pixels, or none (default %(default)s)"
    )
    parser.add_argument("--quality", type=int, default=defaults.quality, help="JPEG quality (default %(default)s)")
    parser.add_argument(
        "--min-side", type=int, default=defaults.min_side, help="refuse smaller images (default %(default)s)"
    )
    parser.add_argument(
        "--max-pixels", type=int, default=defaults.max_pixels, help="refuse larger images (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="of the shuffle (default %(default)s)")
    parser.add_argument(
        "--shard-samples",
        type=int,
        default=defaults.shard_samples,
        help="images per shard, at most (default %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=0, help="writer processes (default: one per core)")
    given = vars(parser.parse_args(arguments))
    source, dest = given.pop("source"), given.pop("dest")
    try:
        with progress_bar("writing") as progress:
            report = write_shards(source, dest, WriteOptions(**given), progress)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{report}\nwrote {report.shards} shard(s) to {dest}")
    if report.skipped:
        print(f"the skipped files and reasons are in {Path(dest) / 'bad.jsonl'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
