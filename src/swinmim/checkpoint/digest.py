"""Hash a file while it is written, so that a checksum costs no second pass over the disk."""

import hashlib
import os
import threading
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

PIECE = 1 << 22
"""Bytes written at a time."""
BLOCK = 1 << 18
"""Bytes hashed at a time, small enough for a core's own cache."""


class Entry(NamedTuple):
    """What the marker says about one file."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z")]


class HashedFile:
    """A new file, for `torch.save`: a thread follows the writing and hashes what is in the page cache.

    The hash then costs no time beside writing and fsync where a core is free. `error` is the first OSError of a write:
    torch.save turns it into a RuntimeError without its number.
    """

    def __init__(self, path: Path) -> None:
        self.error: OSError | None = None
        self._file = open(path, "xb+", buffering=0)  # noqa: SIM115, closed by `close`
        self._written = self._hashed = 0
        self._ended = False
        self._change = threading.Condition()
        self._sha256 = hashlib.sha256()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            try:
                done += (count := self._file.write(view[done : done + PIECE]))
            except OSError as error:
                self.error = self.error or error
                raise
            with self._change:
                self._written += count
                self._change.notify()
        return done

    def flush(self) -> None:
        """Nothing is held back; torch.save asks."""

    def close(self) -> Entry:
        """Wait until the file is on the disk and hashed."""
        try:
            os.fsync(self._file.fileno())
        finally:
            self._end()
        return Entry(self._written, self._sha256.hexdigest())

    def abandon(self) -> None:
        """Close the file after a failed write."""
        self._written = 0
        self._end()

    def _end(self) -> None:
        with self._change:
            self._ended = True
            self._change.notify()
        self._thread.join()
        self._file.close()

    def _follow(self) -> None:
        piece = memoryview(bytearray(BLOCK))
        while True:
            with self._change:
                self._change.wait_for(lambda: self._written > self._hashed or self._ended)
                if self._written <= self._hashed:
                    return
                size = min(BLOCK, self._written - self._hashed)
            count = os.preadv(self._file.fileno(), [piece[:size]], self._hashed)
            self._sha256.update(piece[:count])
            self._hashed += count


def digest(path: Path, *, flush: bool = False) -> Entry:
    """Size and SHA-256 of a file, which is flushed to the disk first if asked for."""
    with path.open("rb", buffering=0) as file:
        if flush:
            os.fsync(file.fileno())
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return Entry(os.fstat(file.fileno()).st_size, sha256)
