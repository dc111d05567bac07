"""Files that are the same: inside a source before writing, and between two shard sets."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.codecs.decode import DecodeError, decode
from data.shards.local import ShardSet
from data.sources.source import Source


def duplicates(source: Source) -> dict[int, str]:
    """Positions of items that are byte for byte equal to an earlier one, with the reason to leave them out.

    Only files of equal size are read; a source that does not know its sizes is read whole.
    """
    by_size: dict[int, list[int]] = defaultdict(list)
    for position, item in enumerate(source.items):
        by_size[item.size].append(position)
    same: dict[int, str] = {}
    for group in by_size.values():
        first: dict[bytes, int] = {}
        for position in group if len(group) > 1 else []:
            try:
                digest = hashlib.sha256(source.load(position)).digest()
            except OSError:
                continue  # the writer meets it again and names it
            original = first.setdefault(digest, position)
            if original != position:
                label = "" if _label(source, original) == _label(source, position) else ", which has another label"
                same[position] = f"duplicate of {source.items[original].name}{label}"
    return same


def _label(source: Source, position: int) -> tuple[int, bytes]:
    return source.items[position].label, source.load_target(position) if source.target else b""


_SIDE = 16
_ALIKE = 0.98
_FLAT = 2.0  # of 255: what varies less, like an empty scan, looks like every other such picture
_BLOCK = 2048


def thumbnail(data: bytes, channels: int) -> NDArray[np.float32] | None:
    """The grey 16x16 thumbnail less its mean, of length 1: float32 (256,). None without contrast.

    The dot product of two is their correlation, which another size, quality or brightness hardly changes.

    Raises:
        DecodeError: not an image.
    """
    grey = Image.fromarray(decode(data, channels).mean(2).astype(np.float32))
    small = np.asarray(grey.resize((_SIDE, _SIDE), Image.Resampling.BOX)).ravel()
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    return small / length if length > _FLAT * _SIDE else None


def leaks(one: ShardSet, two: ShardSet, *, pictures: bool = False) -> list[tuple[str, str]]:
    """Pairs of samples ("shard key") that are in both sets.

    Args:
        one, two: the sets.
        pictures: also find the same picture in another size or quality: thumbnails with a correlation of 0.98. Decodes
            everything; unreadable images, and those without contrast, are left out.
    """
    sizes = np.intersect1d(one.file_sizes, two.file_sizes)
    found: dict[tuple[int, int], None] = {}
    table: dict[bytes, list[int]] = defaultdict(list)
    for index in np.flatnonzero(np.isin(one.file_sizes, sizes)).tolist():
        table[hashlib.sha256(one.read(index).data).digest()].append(index)
    for index in np.flatnonzero(np.isin(two.file_sizes, sizes)).tolist():
        for other in table.get(hashlib.sha256(two.read(index).data).digest(), []):
            found[other, index] = None
    if pictures:
        found |= dict.fromkeys(_similar(one, two))
    return [(_name(one, a), _name(two, b)) for a, b in sorted(found)]


def _name(shards: ShardSet, index: int) -> str:
    record = shards.read(index)
    return f"{record.shard} {record.key}"


def _thumbnails(shards: ShardSet) -> tuple[list[int], NDArray[np.float32]]:
    indices, found = [], []
    for index in range(len(shards)):
        try:
            small = thumbnail(shards.read(index).data, shards.channels)
        except DecodeError:
            continue
        if small is not None:
            indices.append(index)
            found.append(small)
    return indices, np.stack(found) if found else np.empty((0, _SIDE**2), np.float32)


def _similar(one: ShardSet, two: ShardSet) -> Iterator[tuple[int, int]]:
    # All pairs, by matrix products: 30 ns a pair, so that two sets of 100,000 take minutes, as their decoding does.
    firsts, ones = _thumbnails(one)
    seconds, twos = _thumbnails(two)
    for a in range(0, len(firsts), _BLOCK):
        for b in range(0, len(seconds), _BLOCK):
            for row, column in np.argwhere(ones[a : a + _BLOCK] @ twos[b : b + _BLOCK].T > _ALIKE).tolist():
                yield firsts[a + row], seconds[b + column]
