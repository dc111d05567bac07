"""The index file of a shard: one row per sample, written, and checked whole before anything believes it."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.codecs.bands import MAX_BYTES, npy_head
from data.codecs.formats import SUFFIXES
from data.shards.archive import BLOCK
from data.shards.manifest import TARGET_VERSION, VERSION, Manifest, Shard, listed
from swinmim.errors import DataError

# One row per sample, in shard order. Offsets are of the data of a member in the tar.
INDEX = np.dtype([("offset", "<i8"), ("size", "<u4"), ("label", "<i4"), ("suffix", "u1")])
TARGET_INDEX = np.dtype([*INDEX.descr, ("target_offset", "<i8"), ("target_size", "<u4")])
"""Where targets lie beside the images: every sample has one."""
ROWS = {VERSION: INDEX, TARGET_VERSION: TARGET_INDEX}
"""The rows of a set by the version of its manifest."""


def _head(samples: int, version: int) -> bytes:
    return npy_head(f"{{'descr': {ROWS[version].descr!r}, 'fortran_order': False, 'shape': ({samples},), }}")


def index_bytes(rows: Sequence[tuple[int, ...]], version: int = VERSION) -> bytes:
    """The index file of one shard: a .npy array of rows with the fields of `ROWS[version]`."""
    return _head(len(rows), version) + np.array(rows, dtype=ROWS[version]).tobytes()


def index_size(samples: int, version: int) -> int:
    """Bytes of the index file of so many samples."""
    return len(_head(samples, version)) + samples * ROWS[version].itemsize


def read_indices(path: Path, manifest: Manifest, others: Sequence[str] = ()) -> NDArray[np.void]:
    """The rows of all index files, one after the other.

    Args:
        path: where they lie.
        manifest: what it says of them.
        others: problems of the set that are known already.

    Raises:
        DataError: an index is missing, not what the manifest says, or holds what cannot be; or there are `others`.
    """
    found = [_read_index(path, shard, manifest) for shard in manifest.shards]
    if wrong := [*others, *(part for part in found if isinstance(part, str))]:
        raise DataError(
            f"Shards must be as the manifest lists them; {path} has {listed(wrong)}\n"
            "Copy the files again, or write the shards again."
        )
    return np.concatenate([part for part in found if not isinstance(part, str)])


def _read_index(path: Path, shard: Shard, manifest: Manifest) -> NDArray[np.void] | str:
    """The rows of an index file, or what is wrong with it."""
    file, size = path / shard.index_name, index_size(shard.samples, manifest.version)
    try:
        if (length := file.stat().st_size) != size:
            return f"{shard.index_name}: {length} bytes, expected {size}"
        data = file.read_bytes()
    except OSError as error:
        return f"{shard.index_name}: missing or unreadable ({error.strerror})"
    if hashlib.sha256(data).hexdigest() != shard.index_sha256:
        return f"{shard.index_name}: changed"
    kind = ROWS[manifest.version]
    rows = np.frombuffer(data, kind, count=shard.samples, offset=size - shard.samples * kind.itemsize)
    good = _inside(rows["offset"], rows["size"], shard) & (rows["suffix"] < len(SUFFIXES))
    good &= (rows["label"] >= -1) & (rows["label"] < (len(manifest.classes) or 2**31))
    if manifest.target:
        good &= _inside(rows["target_offset"], rows["target_size"], shard) & (rows["target_size"] > 0)
    if not good.all():
        row = int(good.argmin())
        fields = dict(zip(rows.dtype.names or (), rows[row].item(), strict=True))
        return f"{shard.index_name}: sample {row} cannot be {fields}"
    return rows


def _inside(offset: NDArray[np.int64], size: NDArray[np.uint32], shard: Shard) -> NDArray[np.bool_]:
    """Whether members can lie at these places of a shard."""
    after = shard.bytes - size.astype(np.int64)
    return np.asarray((offset >= BLOCK) & (offset % BLOCK == 0) & (offset <= after) & (size <= MAX_BYTES))
