"""Shard sets on a server, read through a cache of whole shards that the processes of a node share.

A shard appears in the cache only when its size and sha256 are those of the manifest. Its name there is its sha256, so
nothing collides and nothing is stale. A lock per shard lets one process fetch while the others wait; a thread of the
node's first process fetches what the order needs next. Readers keep shards open, so evicting one never breaks them.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from filelock import Timeout

from data.order.hashing import Ints
from data.shards.archive import write_file
from data.shards.local import ShardSet
from data.shards.lock import shared_lock
from data.shards.manifest import LARGEST, MANIFEST, Shard, read_manifest
from data.shards.remote import FIRST_PAUSE, Remote, on_disk
from data.shards.rows import index_size, read_indices
from swinmim.errors import DataError

log = logging.getLogger(__name__)

_WAIT = 0.05  # seconds between two looks for room


class ShardCache:
    """A directory of whole shards, on a local disk, for all sets and processes of a node.

    Args:
        folder: the directory; made if need be.
        limit: bytes that shards, and those that are on their way, may take together.

    Raises:
        DataError: the directory cannot be made.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        with on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, shard: Shard) -> Path:
        """Where the shard lies once it is there."""
        return self.folder / f"{shard.sha256}.tar"

    def fetch(self, shard: Shard, remote: Remote) -> Path:
        """The file of a shard; downloads it, or waits for the process that is doing so."""
        if not self._has(shard):
            with self._lock(shard.sha256):
                self._bring(shard, remote)
        return self.path(shard)

    def open(self, shard: Shard, remote: Remote) -> int:
        """As `fetch`, and open for reading: as long as the lock is held nobody evicts it."""
        with self._lock(shard.sha256):
            self._bring(shard, remote)
            with on_disk(self.folder):
                os.utime(self.path(shard))  # eviction takes the longest unused first
                return os.open(self.path(shard), os.O_RDONLY | os.O_CLOEXEC)

    def _has(self, shard: Shard) -> bool:
        try:
            return self.path(shard).stat().st_size == shard.bytes
        except FileNotFoundError:
            return False

    def _bring(self, shard: Shard, remote: Remote) -> None:
        if self._has(shard):
            return
        path = self.path(shard)
        if path.exists():
            log.warning("%s was damaged: not the %d bytes of %s; fetched again", path, shard.bytes, shard.name)
        with on_disk(self.folder):
            path.unlink(missing_ok=True)
            partial = self._reserve(shard)
        try:
            remote.fetch(shard.name, partial, shard.bytes, shard.sha256)
            with on_disk(self.folder):
                partial.rename(path)
        finally:
            partial.unlink(missing_ok=True)

    def _reserve(self, shard: Shard) -> Path:
        """The empty file that a download will fill; its name holds the size, so that others count it from now on."""
        partial = self.folder / f"{shard.sha256}.{shard.bytes}.partial"
        partial.unlink(missing_ok=True)
        while True:
            with self._lock("cache"):
                if self._make_room(shard.bytes):
                    partial.touch()
                    return partial
            time.sleep(_WAIT)  # others are downloading; afterwards theirs can go

    def _make_room(self, room: int) -> bool:
        """Remove what killed processes left, then the longest unused shards, until `room` more bytes fit."""
        held, files = 0, []
        for partial in self.folder.glob("*.partial"):
            sha256, _, expected = partial.stem.rpartition(".")
            with self._lock(sha256, wait=False) as abandoned:
                if abandoned:
                    partial.unlink(missing_ok=True)
                else:
                    held += int(expected)
        for file in self.folder.glob("*.tar"):
            try:
                status = file.stat()
            except FileNotFoundError:
                continue
            held += status.st_size
            files.append((status.st_mtime_ns, status.st_size, file))
        for _, size, file in sorted(files):
            if held + room <= self.limit:
                break
            with self._lock(file.stem, wait=False) as unused:
                if unused:
                    file.unlink(missing_ok=True)
                    held -= size
        return held + room <= self.limit

    @contextmanager
    def _lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold a lock; False when another has it and `wait` is off. The file stays: another may be waiting for it."""
        with on_disk(self.folder), suppress(Timeout):
            lock = shared_lock(self.folder / name)
            lock.acquire(blocking=wait)
        try:
            yield lock.is_locked
        finally:
            lock.release()


class RemoteShardSet(ShardSet):
    """A shard set on a server; made with `open_remote`. Reading a sample fetches its shard when the cache lacks it."""

    remote: Remote
    cache: ShardCache
    fork_safe = False
    open_files = 8  # an evicted shard takes its space until it is closed

    def file_of(self, number: int) -> Path:
        return self.cache.path(self.shards[number])

    def _open_shard(self, number: int) -> int:
        return self.cache.open(self.shards[number], self.remote)

    def prepare(self, indices: Ints) -> None:
        for number in np.unique(self._ends.searchsorted(indices, "right")).tolist():
            self.cache.fetch(self.shards[number], self.remote)

    def __reduce__(self) -> tuple[Any, ...]:
        return _opened, (self.path, self.remote, self.cache, self.fingerprint)


def _opened(path: Path, remote: Remote, cache: ShardCache, fingerprint: str | None = None) -> RemoteShardSet:
    """The set whose manifest and indices lie in `path`; asks no server."""
    text, manifest = read_manifest(path)
    if fingerprint not in (None, found := hashlib.sha256(text).hexdigest()):
        raise DataError(f"The copy of the manifest in {path} was changed while in use. Start the run again.")
    opened = RemoteShardSet(path, manifest, found, read_indices(path, manifest))
    opened.remote, opened.cache = remote, cache
    opened.ahead_bytes = cache.limit // 4  # the rest holds what is being read, and what ranks ahead of others have read
    return opened


def _not_json(text: bytes) -> str | None:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"it is no manifest but begins with {text[:40]!r} ({error})"
    return None


def _fetch_index(remote: Remote, shard: Shard, size: int, path: Path) -> None:
    file = path / shard.index_name

    def differs(data: bytes) -> str | None:
        return None if hashlib.sha256(data).hexdigest() == shard.index_sha256 else "the sha256 is not the manifest's"

    if not file.exists() or differs(file.read_bytes()):
        write_file(file, remote.read(shard.index_name, size, differs))


def open_remote(
    url: str,
    cache_dir: str | Path,
    cache_bytes: int,
    allow_insecure: bool = False,
    options: dict[str, Any] | None = None,
    pause: float = FIRST_PAUSE,
) -> RemoteShardSet:
    """Open the shard set in a directory on a server.

    Args:
        url: of the directory that holds manifest.json.
        cache_dir: on a local disk; processes of a node should give the same one.
        cache_bytes: what the shards in it may take together.
        allow_insecure, options, pause: see `Remote`.

    Raises:
        DataError: refused scheme, unreachable, no manifest, damaged index files, or a cache too small to be of use.
    """
    remote = Remote(url.removesuffix("/" + MANIFEST), allow_insecure=allow_insecure, options=options, pause=pause)
    cache = ShardCache(Path(cache_dir) / "shards", cache_bytes)
    # always anew: it says whether the set has changed
    text = remote.read(MANIFEST, LARGEST, _not_json, patient=False)
    # Address and content name the copy: sets often share a name, and a running run needs the manifest it began with.
    path = Path(cache_dir) / f"set-{hashlib.sha256(remote.url.encode() + b' ' + text).hexdigest()[:32]}"
    with on_disk(path):
        path.mkdir(exist_ok=True)
        with shared_lock(path):
            write_file(path / MANIFEST, text)
            try:
                manifest = read_manifest(path)[1]
            except DataError as error:
                raise DataError(f"{remote.url}/{MANIFEST} cannot be used: {error}") from error
            for shard in manifest.shards:
                _fetch_index(remote, shard, index_size(shard.samples, manifest.version), path)
    sizes = [shard.bytes for shard in manifest.shards]
    largest = max(sizes)
    if cache_bytes < min(sum(sizes), 4 * largest):
        raise DataError(
            f"The cache must hold a few shards of up to {largest:,} bytes, got data.cache_bytes={cache_bytes:,}."
            f" Set at least {4 * largest:,}; 20 shards per reading lane keep it from fetching twice."
        )
    return _opened(path, remote, cache)
