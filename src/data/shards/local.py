"""A shard set on disk: plain WebDataset tars, one small index file beside each, and `manifest.json`.

Any sample is one `pread` away: the index holds where its image lies in the tar. The tars stay readable by every
WebDataset tool; the index only makes them addressable.
"""

import hashlib
import os
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.codecs.bands import Bits
from data.codecs.decode import MAX_BYTES
from data.shards.archive import BLOCK
from data.shards.manifest import Shard, _listed, read_manifest
from data.shards.rows import INDEX, SUFFIXES
from data.shards.set import Record
from swinmim.errors import DataError


class ShardSet:
    """A set of shards, opened with `ShardSet.open`. Safe to fork and to send to a worker process.

    Attributes:
        path: its directory.
        classes: class names in label order; empty when the set has no labels.
        channels: of its images.
        bits: per value, 8 or 16; the largest stored value stands for 1.
        mean, std: per channel, in 0..1 units, over the training pixels.
        fingerprint: sha256 of the manifest, which holds the sha256 of every shard.
        shards: the lines of the manifest.
        labels: int32 (N,), -1 where there is none.
        fork_safe: loader processes may be forked while the set is open.
        open_files: per process; a lane works on few shards at a time.
    """

    fork_safe = True
    open_files = 64

    def __init__(self, path: Path, manifest: dict[str, Any], fingerprint: str, index: NDArray[np.void]) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.classes: tuple[str, ...] = tuple(manifest["classes"])
        self.channels: int = manifest["channels"]
        self.bits: Bits = manifest.get("bits", 8)
        self.mean: tuple[float, ...] = tuple(manifest["mean"])
        self.std: tuple[float, ...] = tuple(manifest["std"])
        self.shards = tuple(Shard(**line) for line in manifest["shards"])
        self._index = index
        self._ends = np.cumsum([shard.samples for shard in self.shards], dtype=np.int64)
        self._files: OrderedDict[int, int] = OrderedDict()

    @classmethod
    def open(cls, path: str | Path) -> "ShardSet":
        """Open the shard set in directory `path` and check that every file of it is there and of the right size.

        Raises:
            DataError: no or unreadable manifest; or files missing, changed, or with what cannot be, all of them listed.
        """
        path = Path(path).absolute()
        text, manifest = read_manifest(path)
        shards = [Shard(**line) for line in manifest["shards"]]
        lost = []
        for shard in shards:
            file = path / shard.name
            if not file.is_file():
                lost.append(f"{shard.name}: missing")
            elif (size := file.stat().st_size) != shard.bytes:
                lost.append(f"{shard.name}: {size} bytes, expected {shard.bytes}")
        index = cls.read_indices(path, shards, len(manifest["classes"]), lost)
        return cls(path, manifest, hashlib.sha256(text).hexdigest(), index)

    @staticmethod
    def read_indices(
        path: Path, shards: Sequence[Shard], classes: int = 0, others: Sequence[str] = ()
    ) -> NDArray[np.void]:
        """The rows of all index files, one after the other.

        Args:
            path: where they lie.
            shards: what the manifest says of them.
            classes: number of them; 0 takes any label.
            others: problems of the set that are known already.

        Raises:
            DataError: an index is missing, not what the manifest says, or holds what cannot be; or there are `others`.
        """
        found = [_read_index(path, shard, classes) for shard in shards]
        if wrong := [*others, *(part for part in found if isinstance(part, str))]:
            raise DataError(
                f"Shards must be as the manifest lists them; {path} has {_listed(wrong)}\n"
                "Copy the files again, or write the shards again."
            )
        parts = [part for part in found if not isinstance(part, str)]
        return np.concatenate(parts) if parts else np.empty(0, INDEX)

    def __len__(self) -> int:
        return len(self._index)

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Samples per shard."""
        return tuple(shard.samples for shard in self.shards)

    @property
    def labels(self) -> NDArray[np.int32]:
        return np.asarray(self._index["label"])

    @property
    def file_sizes(self) -> NDArray[np.uint32]:
        """Bytes of each image file; uint32 (N,)."""
        return np.asarray(self._index["size"])

    def sizes_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of these sorted sample indices lie in each shard; int64 (shards,)."""
        return np.diff(np.searchsorted(indices, np.concatenate(([0], self._ends))))

    def locate(self, index: int) -> tuple[int, str]:
        """Number and name of the shard that holds sample `index`."""
        shard = int(self._ends.searchsorted(index, "right"))
        return shard, self.shards[shard].name

    def file_of(self, number: int) -> Path:
        """Where shard `number` lies on this machine."""
        return self.path / self.shards[number].name

    def read(self, index: int) -> Record:
        """Read sample `index`.

        Raises:
            IndexError: there is no such sample.
            DataError: the shard ended early or holds something else at this place.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        offset, size, label, suffix = self._index[index].item()
        number, name = self.locate(index)
        block = os.pread(self._file(number), BLOCK + size, offset - BLOCK)
        # The member's own header names it, so keys need no memory; and it tells when the shard is not what was indexed.
        if len(block) != BLOCK + size or _header_size(block) != size:
            raise DataError(
                f"Sample {index} is not where the index says, in {self.file_of(number)}. The file was changed while in"
                " use; copy it again or write the shards again."
            )
        folder, slash, name_in_it = block[:100].split(b"\0", 1)[0].decode(errors="replace").rpartition("/")
        return Record(folder + slash + name_in_it.split(".", 1)[0], block[BLOCK:], SUFFIXES[suffix], label, name)

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

    @property
    def ahead_bytes(self) -> int:
        """How much of the set may be prepared before it is read; 0 where that would gain nothing."""
        return 0

    def prepare(self, indices: NDArray[np.int64]) -> None:
        """Bring the shards of these samples near; nothing to do for a local set."""

    def _open_shard(self, number: int) -> int:
        try:
            return os.open(self.path / self.shards[number].name, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"Shard {self.path / self.shards[number].name} cannot be opened: {error}.") from error

    def close(self) -> None:
        """Close the open files; reading opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        if hasattr(self, "_files"):
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, self.fingerprint)

    def __repr__(self) -> str:
        return f"ShardSet({str(self.path)!r}, {len(self)} samples, {len(self.classes)} classes)"


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


def _read_index(path: Path, shard: Shard, classes: int) -> NDArray[np.void] | str:
    """The rows of an index file, or what is wrong with it."""
    file = path / shard.index_name
    try:
        if (length := file.stat().st_size) != shard.index_size:
            return f"{shard.index_name}: {length} bytes, expected {shard.index_size}"
        data = file.read_bytes()
    except OSError as error:
        return f"{shard.index_name}: missing or unreadable ({error.strerror})"
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        return f"{shard.index_name}: changed"
    rows = np.frombuffer(data, INDEX, count=shard.samples, offset=length - shard.samples * INDEX.itemsize)
    offset, size, label = rows["offset"], rows["size"], rows["label"]
    good = (offset >= BLOCK) & (offset % BLOCK == 0) & (offset <= shard.bytes - size.astype(np.int64))
    good &= (size <= MAX_BYTES) & (rows["suffix"] < len(SUFFIXES)) & (label >= -1) & (label < (classes or 2**31))
    if not good.all():
        row = int(good.argmin())
        return (
            f"{shard.index_name}: sample {row} cannot be {dict(zip(INDEX.names or (), rows[row].item(), strict=True))}"
        )
    return rows
