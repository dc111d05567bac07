"""A shard set on disk: plain WebDataset tars, one small index file beside each, and `manifest.json`.

Any sample is one `pread` away: the index holds where its image lies in the tar. The tars stay readable by every
WebDataset tool; the index only makes them addressable.
"""

import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data.codecs.formats import CLIPS, SUFFIXES
from data.order.epoch import EpochOrders
from data.order.hashing import Ints
from data.shards.archive import BLOCK
from data.shards.manifest import Manifest, read_manifest
from data.shards.rows import read_indices
from data.shards.set import Record, larger_than_set
from swinmim.errors import DataError


class ShardSet:
    """A set of shards, opened with `ShardSet.open`; a `SampleSet`. Safe to fork and to send to a worker process.

    Attributes:
        fingerprint: sha256 of the manifest, which holds the sha256 of every shard.
        file_sizes: bytes of each image file; uint32 (N,).
        clips: it holds clips in place of images.
        open_files: per process; a lane works on few shards at a time.
    """

    streams: Literal[False] = False
    fork_safe = True
    ahead_bytes = 0
    open_files = 64

    def __init__(self, path: Path, manifest: Manifest, fingerprint: str, index: NDArray[np.void]) -> None:
        self.path, self.fingerprint = path, fingerprint
        self.classes, self.target, self.shards = manifest.classes, manifest.target, manifest.shards
        self.channels, self.bits, self.mean, self.std = manifest.channels, manifest.bits, manifest.mean, manifest.std
        self._index = index
        self.labels: NDArray[np.int32] = index["label"]
        self.clips = bool((index["suffix"] >= len(SUFFIXES) - len(CLIPS)).any())
        self.file_sizes: NDArray[np.uint32] = index["size"]
        self._ends = np.cumsum(self.shard_sizes, dtype=np.int64)
        self._files: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def open(cls, path: str | Path) -> "ShardSet":
        """Open the shard set in directory `path` and check that every file of it is there and of the right size.

        Raises:
            DataError: no or unreadable manifest; or files missing, changed, or with what cannot be, all of them listed.
        """
        path = Path(path).absolute()
        text, manifest = read_manifest(path)
        lost = []
        for shard in manifest.shards:
            file = path / shard.name
            if not file.is_file():
                lost.append(f"{shard.name}: missing")
            elif (size := file.stat().st_size) != shard.bytes:
                lost.append(f"{shard.name}: {size} bytes, expected {shard.bytes}")
        return cls(path, manifest, hashlib.sha256(text).hexdigest(), read_indices(path, manifest, lost))

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples per shard."""
        return tuple(shard.samples for shard in self.shards)

    def sizes_of(self, indices: Ints) -> Ints:
        return np.diff(np.searchsorted(indices, np.concatenate(([0], self._ends))))

    def shortage(self, indices: Ints, global_batch: int, lanes: int = 1) -> str | None:
        return larger_than_set(global_batch, len(indices), self.path)

    def order(self, indices: Ints, global_batch: int, batches: int, seed: int, *, lanes: int = 1) -> EpochOrders:
        return EpochOrders(self.sizes_of(indices), global_batch, seed, lanes=lanes)

    def file_of(self, number: int) -> Path:
        """Where shard `number` lies on this machine."""
        return self.path / self.shards[number].name

    def read(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        offset, size, label, suffix, *target = self._index[index].item()
        number = int(self._ends.searchsorted(index, "right"))
        block = self._member(number, index, offset, size)
        # The member's own header names it, so keys need no memory.
        folder, slash, name_in_it = block[:100].split(b"\0", 1)[0].decode(errors="replace").rpartition("/")
        key = folder + slash + name_in_it.split(".", 1)[0]
        beside = self._member(number, index, *target)[BLOCK:] if target else b""
        return Record(key, block[BLOCK:], SUFFIXES[suffix], label, self.shards[number].name, beside)

    def read_target(self, index: int) -> bytes:
        *_, offset, size = self._index[index].item()
        return self._member(int(self._ends.searchsorted(index, "right")), index, offset, size)[BLOCK:]

    def _member(self, number: int, index: int, offset: int, size: int) -> bytes:
        """Header and data of the member whose data begins there; the header tells when the shard is not as indexed."""
        block = os.pread(self._file(number), BLOCK + size, offset - BLOCK)
        if len(block) != BLOCK + size or _header_size(block) != size:
            raise DataError(
                f"Sample {index} is not where the index says, in {self.file_of(number)}. The file was changed while in"
                " use; copy it again or write the shards again."
            )
        return block

    def _file(self, number: int) -> int:
        file = self._files.get(number)  # after a fork too: pread keeps no position
        if file is None:
            file = self._open_shard(number)
            self._files[number] = file
            if len(self._files) > self.open_files:
                os.close(self._files.popitem(last=False)[1])
        else:
            self._files.move_to_end(number)
        return file

    def prepare(self, indices: Ints) -> None:
        """A local set is near."""

    def _open_shard(self, number: int) -> int:
        file = self.file_of(number)
        try:
            return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"Shard {file} cannot be opened: {error}.") from error

    def close(self) -> None:
        """Close the open files; reading opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.fingerprint)


def _reopen(path: Path, fingerprint: str) -> ShardSet:
    shards = ShardSet.open(path)
    if shards.fingerprint != fingerprint:
        raise DataError(f"The shard set {path} was replaced while in use. Start the run again.")
    return shards


def _header_size(block: bytes) -> int:
    """Bytes of the member that a tar header begins; -1 when it is none."""
    try:
        return int(block[124:136].split(b"\0", 1)[0], 8)
    except ValueError:
        return -1
