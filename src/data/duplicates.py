"""Files that are the same: inside a source before writing, and between two shard sets."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from PIL import Image

from data.decode import DecodeError, decode
from data.plan import Source
from data.shards import ShardSet


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
                other = source.items[original]
                label = "" if other.label == source.items[position].label else ", which has another label"
                same[position] = f"duplicate of {other.name}{label}"
    return same


def picture_hash(data: bytes, channels: int) -> int:
    """256 bits that survive another size or quality: where a 17x16 thumbnail gets brighter from left to right."""
    pixels = decode(data, channels)
    grey = Image.fromarray(pixels.mean(2).astype(np.uint8))
    thumbnail = np.asarray(grey.resize((17, 16), Image.Resampling.BOX)).astype(int)
    return int.from_bytes(np.packbits(thumbnail[:, 1:] > thumbnail[:, :-1]).tobytes(), "big")


def leaks(one: ShardSet, two: ShardSet, *, pictures: bool = False, distance: int = 16) -> list[tuple[str, str]]:
    """Pairs of samples ("shard key") that are in both sets.

    Args:
        one, two: the sets.
        pictures: also find the same picture in another size or quality: thumbnails that differ in at most `distance`
            of 256 bits. Decodes everything; unreadable images are left out.
        distance: see `pictures`.
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
        found |= dict.fromkeys(_similar(one, two, distance))
    return [(_name(one, a), _name(two, b)) for a, b in sorted(found)]


def _name(shards: ShardSet, index: int) -> str:
    record = shards.read(index)
    return f"{record.shard} {record.key}"


def _hashes(shards: ShardSet) -> tuple[list[int], list[int]]:
    indices, hashes = [], []
    for index in range(len(shards)):
        try:
            hashes.append(picture_hash(shards.read(index).data, shards.channels))
        except DecodeError:
            continue
        indices.append(index)
    return indices, hashes


def _similar(one: ShardSet, two: ShardSet, distance: int) -> Iterable[tuple[int, int]]:
    indices, hashes = _hashes(one)
    # Hashes that differ in at most d bits are equal in one of d + 1 pieces.
    pieces = distance + 1
    width = 256 // pieces + 1
    table: dict[tuple[int, int], list[int]] = defaultdict(list)
    mask = (1 << width) - 1
    for row, value in enumerate(hashes):
        for piece in range(pieces):
            table[piece, value >> (piece * width) & mask].append(row)
    for index, value in zip(*_hashes(two), strict=True):
        near = {row for piece in range(pieces) for row in table[piece, value >> (piece * width) & mask]}
        for row in near:
            if (hashes[row] ^ value).bit_count() <= distance:
                yield indices[row], index
