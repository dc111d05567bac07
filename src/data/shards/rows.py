"""The index file of a shard: one row per sample."""

from collections.abc import Sequence

import numpy as np

from data.codecs.bands import npy_head

# One row per sample, in shard order.
INDEX = np.dtype([("offset", "<i8"), ("size", "<u4"), ("label", "<i4"), ("suffix", "u1")])
SUFFIXES = ("jpg", "png", "webp", "tif", "npy")


def _head(samples: int) -> bytes:
    return npy_head(f"{{'descr': {INDEX.descr!r}, 'fortran_order': False, 'shape': ({samples},), }}")


def index_bytes(rows: Sequence[tuple[int, int, int, int]]) -> bytes:
    """The index file of one shard: a .npy array of `INDEX` rows (offset, size, label, suffix)."""
    array = np.array(rows, dtype=INDEX)
    return _head(len(rows)) + array.tobytes()
