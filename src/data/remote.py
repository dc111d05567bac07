"""Shard sets on https, s3, gs and hf, read through a cache of whole shards that the processes of a node share.

A shard appears in the cache only when its size and sha256 are those of the manifest. Its name there is its sha256, so
nothing collides and nothing is stale. A lock per shard lets one process fetch while the others wait; a thread of the
node's first process fetches what the order needs next. Readers keep shards open, so evicting one never breaks them.
"""

import fcntl
import hashlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.shards import MANIFEST, Shard, ShardSet, read_manifest
from swinmim.config import holds_password
from swinmim.errors import DataError

log = logging.getLogger(__name__)

SCHEMES = ("https", "s3", "gs", "hf")
_INSTALL = {"gs": "'swinmim[gs]'", "hf": "huggingface_hub"}  # the others need the extra
_TRIES = 6
_FIRST_PAUSE = 1.0  # seconds, doubled after every failure
_CHUNK = 16 << 20  # s3 and gs take one request for each
_SILENT_SECONDS = 60  # a server that sends nothing for so long counts as gone


def is_url(path: str) -> bool:
    return "://" in path or path.startswith("pipe:")


def check_url(url: str, *, allow_insecure: bool = False) -> str:
    """The scheme of a URL that may be read.

    Raises:
        DataError: any other scheme; nothing that runs a program, http only on request; or a password in the URL.
    """
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES and not (scheme == "http" and allow_insecure):
        hint = " Add data.allow_insecure=true to read over plain http." if scheme == "http" else ""
        shown = f"a {scheme} URL with a password" if holds_password(url) else url
        raise DataError(f"Remote sets are read over {', '.join(SCHEMES)}; got {shown}.{hint}")
    if holds_password(url):
        raise DataError(
            f"A password or signature in a URL ends up in logs; got one over {scheme}. Write the URL without it, and "
            "put user and password into ~/.netrc, or keys where the cloud's own tools look for them."
        )
    return scheme


class Remote:
    """A directory on a server, opened with fsspec.

    Args:
        url: of the directory.
        allow_insecure: accept http.
        options: for the fsspec file system (endpoint, keys); the usual environment variables work without.
        pause: seconds before the second try; doubles with each.
    """

    def __init__(
        self,
        url: str,
        *,
        allow_insecure: bool = False,
        options: dict[str, Any] | None = None,
        pause: float = _FIRST_PAUSE,
    ) -> None:
        self.url, self.scheme = url.rstrip("/"), check_url(url, allow_insecure=allow_insecure)
        self.allow_insecure, self.options, self.pause = allow_insecure, options or {}, pause

    def open(self, name: str) -> Any:
        """A file of the directory, open for reading from front to back."""
        import fsspec  # only where something is remote

        options = dict(self.options)
        try:
            if self.scheme in ("http", "https"):
                from aiohttp import ClientTimeout

                quiet = ClientTimeout(total=None, sock_connect=_SILENT_SECONDS, sock_read=_SILENT_SECONDS)
                # trust_env: passwords from ~/.netrc, and the proxies that the environment names
                options = {"client_kwargs": {"timeout": quiet, "trust_env": True}} | options
            file_system, path = fsspec.url_to_fs(f"{self.url}/{name}", **options)
        except ImportError as error:
            package = _INSTALL.get(self.scheme, "'swinmim[remote]'")
            raise DataError(
                f"Reading {self.scheme}:// needs one more package: pip install {package} ({error})."
            ) from error
        # Streamed where the client can, not in ranges: whole files are wanted, and not every server knows ranges.
        block_size = 0 if self.scheme in ("http", "https", "hf") else None
        return file_system.open(path, "rb", block_size=block_size, cache_type="none")

    def fetch(self, name: str, dest: Path, size: int | None = None, sha256: str | None = None) -> None:
        """Download a file to `dest`, all of it or nothing, and try again for a while when that fails.

        Raises:
            DataError: it cannot be had, or is not `size` bytes with this `sha256`; says what each try met.
        """
        partial = dest.with_name(f".{dest.name}.{os.uname().nodename}-{os.getpid()}-{threading.get_ident()}.partial")
        met: list[str] = []
        try:
            for attempt in range(_TRIES):
                if attempt:
                    time.sleep(self.pause * 2 ** (attempt - 1))
                try:
                    self._download(name, partial, size, sha256)
                except _failures() as error:
                    met.append(f"{type(error).__name__}: {error}".strip())
                    log.warning("try %d of %d: %s/%s: %s", attempt + 1, _TRIES, self.url, name, met[-1])
                else:
                    partial.rename(dest)
                    return
        finally:
            partial.unlink(missing_ok=True)
        raise DataError(f"{self.url}/{name} cannot be read. {_TRIES} tries met:\n  " + "\n  ".join(dict.fromkeys(met)))

    def _download(self, name: str, partial: Path, size: int | None, sha256: str | None) -> None:
        digest, length = hashlib.sha256(), 0
        with self.open(name) as source, partial.open("wb") as file:
            while chunk := source.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
                length += len(chunk)
                if size is not None and length > size:
                    break
            file.flush()
            os.fsync(file.fileno())
        if size is not None and length != size:
            raise ValueError(f"{length} bytes came instead of {size}")
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ValueError("the sha256 is not the manifest's")


def _failures() -> tuple[type[Exception], ...]:
    """What a network may raise; looked up late, since the libraries are optional."""
    found: list[type[Exception]] = [OSError, ValueError, EOFError]
    try:
        from aiohttp import ClientError

        found.append(ClientError)
    except ImportError:
        pass
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.exceptions import ClientError as S3Error

        found += [BotoCoreError, S3Error]
    except ImportError:
        pass
    try:
        from huggingface_hub.errors import HfHubHTTPError

        # Its client, httpx under one name or another, is no dependency of ours; no answer at all raises its base class.
        found += [kind for kind in HfHubHTTPError.__mro__ if kind.__name__ == "HTTPError"]
    except ImportError:
        pass
    try:
        from gcsfs.retry import HttpError
        from google.auth.exceptions import GoogleAuthError

        found += [HttpError, GoogleAuthError]
    except ImportError:
        pass
    return tuple(found)


class RemoteShardSet(ShardSet):
    """A shard set on a server; made with `open_remote`. Reading a sample fetches its shard when the cache lacks it."""

    remote: Remote
    cache_bytes: int
    shard_cache: Path

    def _cached(self, number: int) -> Path:
        shard = self.shards[number]
        return self.shard_cache / f"{shard.sha256}.tar"

    def _open_shard(self, number: int) -> int:
        for _ in range(3):  # another process may evict it between fetching and opening
            path = self.fetch(number)
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            os.utime(path)  # eviction takes the longest unused first
            return file
        raise DataError(
            f"The cache {self.shard_cache} is too small for this set: shards are evicted before they are read."
        )

    def fetch(self, number: int) -> Path:
        """The cached file of a shard; downloads it, or waits for the process that is doing so."""
        path, shard = self._cached(number), self.shards[number]
        if path.exists():
            return path
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                if not path.exists():
                    self._evict(shard.bytes)
                    self.remote.fetch(shard.name, path, shard.bytes, shard.sha256)
            finally:
                fcntl.flock(lock, fcntl.LOCK_UN)  # a fork in another thread may have a copy of this file
        return path

    def _evict(self, room: int) -> None:
        """Remove the longest unused shards, of any set, until `room` more bytes fit."""
        files = []
        for file in self.shard_cache.glob("*.tar"):
            try:
                files.append((file.stat().st_mtime_ns, file.stat().st_size, file))
            except FileNotFoundError:
                continue
        held = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if held + room <= self.cache_bytes:
                break
            file.unlink(missing_ok=True)
            file.with_suffix(".lock").unlink(missing_ok=True)
            held -= size

    @property
    def ahead_bytes(self) -> int:
        return self.cache_bytes // 4  # the rest holds what is being read, and what ranks ahead of others have read

    def prepare(self, indices: NDArray[np.int64]) -> None:
        for number in np.unique([self.locate(index)[0] for index in indices.tolist()]).tolist():
            self.fetch(number)

    def __reduce__(self) -> tuple[Any, ...]:
        remote = self.remote
        return open_remote, (
            remote.url,
            self.shard_cache.parent,
            self.cache_bytes,
            remote.allow_insecure,
            remote.options,
        )


def open_remote(
    url: str,
    cache_dir: str | Path,
    cache_bytes: int,
    allow_insecure: bool = False,
    options: dict[str, Any] | None = None,
    pause: float = _FIRST_PAUSE,
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
    remote = Remote(url, allow_insecure=allow_insecure, options=options, pause=pause)
    shard_cache = Path(cache_dir) / "shards"
    shard_cache.mkdir(parents=True, exist_ok=True)
    # The address, not its last part, names the copy of the manifest: sets often share a name.
    path = Path(cache_dir) / f"set-{hashlib.sha256(remote.url.encode()).hexdigest()[:32]}"
    path.mkdir(exist_ok=True)
    with open(path / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        remote.fetch(MANIFEST, path / MANIFEST)  # always anew: it says whether the set has changed
        text, manifest = read_manifest(path)
        shards = [Shard(**line) for line in manifest["shards"]]
        for shard in shards:
            index = path / shard.index_name
            if not index.exists() or hashlib.sha256(index.read_bytes()).hexdigest() != shard.index_sha256:
                remote.fetch(shard.index_name, index, shard.index_size, shard.index_sha256)
    largest = max((shard.bytes for shard in shards), default=0)
    if cache_bytes < min(sum(shard.bytes for shard in shards), 4 * largest):
        raise DataError(
            f"The cache must hold a few shards of up to {largest:,} bytes, got data.cache_bytes={cache_bytes:,}."
            f" Set at least {4 * largest:,}; 20 shards per reading lane keep it from fetching twice."
        )
    rows = ShardSet.read_indices(path, shards, len(manifest["classes"]))
    opened = RemoteShardSet(path, manifest, hashlib.sha256(text).hexdigest(), rows)
    opened.remote, opened.cache_bytes, opened.shard_cache = remote, cache_bytes, shard_cache
    return opened
