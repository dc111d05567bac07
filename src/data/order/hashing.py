"""Random numbers and shuffles as pure functions of a key and a counter: nothing is kept, anything can be sought."""

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)
# Two pairs: four rounds of an ideal function cannot be told from a random permutation (Luby, Rackoff 1988).
_ROUND_KEYS = np.array([0xA0761D6478BD642F, 0xE7037ED1A0B428DB], np.uint64)


def key(*parts: int | str) -> int:
    """A 64-bit key for these parts. Text and numbers are kept apart, so no two lists of parts share a spelling."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def words(start: int, counters: Ints) -> Words:
    """The splitmix64 output of key `start` at each counter; uint64, same shape as `counters`."""
    # arrays of at least one dimension: only numpy's scalars warn when they wrap
    return _mix(np.uint64(start) + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def _mix(z: Words) -> Words:
    z = (z ^ (z >> np.uint64(30))) * _MIX_A
    z = (z ^ (z >> np.uint64(27))) * _MIX_B
    return np.asarray(z ^ (z >> np.uint64(31)))


def uniform(sample_seed: int, counter: int) -> float:
    """Number `counter` of the sequence that belongs to a sample's seed, in [0, 1): `words` in Python's own integers,

    which for a few numbers takes a tenth of the time.
    """
    word = (sample_seed + (counter + 1) * 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return float((word ^ (word >> 31)) >> 11) * 2.0**-53


def permutation(count: int, *parts: int | str) -> Ints:
    """A permutation of range(count), keyed by `parts`; int64 (count,)."""
    return np.argsort(
        words(key(*parts), np.arange(count))
    )  # equal words, one chance in 2**64 a pair, may fall either way


def shuffle(places: Ints, length: int, keys: Words) -> Ints:
    """Where each place lands when range(length) is permuted under a key; any place alone.

    A generalised Feistel network (Black and Rogaway 2002) over rows x columns, the least near-square that holds the
    length; the few places that fall outside go round again, which keeps it a bijection of range(length).

    Args:
        places: int64 (places,) or (1, places).
        length: of what is permuted.
        keys: uint64 (keys, 1).

    Returns:
        int64 (keys, places).
    """
    rows = math.isqrt(length - 1) + 1
    sides = np.array([rows], np.uint64), np.array([-(-length // rows)], np.uint64)
    out = _feistel(np.broadcast_to(places.astype(np.uint64), (len(keys), places.shape[-1])), keys, *sides)
    while len((again := np.nonzero(out >= np.uint64(length)))[0]):
        out[again] = _feistel(out[again], keys[again[0], 0], *sides)
    return out.astype(np.int64)


def _feistel(places: Words, keys: Words, rows: Words, columns: Words) -> Words:
    column = places // rows
    row = places - column * rows
    for constant in _ROUND_KEYS:
        row = _add(row, _mix((keys + constant) ^ column * _GOLDEN), rows)
        column = _add(column, _mix((keys - constant) ^ row * _GOLDEN), columns)
    return np.asarray(column * rows + row)


def _add(number: Words, word: Words, modulus: Words) -> Words:
    """number + word scaled to range(modulus), modulo modulus; a 64-bit division would take most of the time."""
    number = number + ((word >> _HALF) * modulus >> _HALF)
    return np.asarray(np.minimum(number, number - modulus))  # an unneeded difference wraps to a huge word


def sample_seeds(seed: int, epoch: int, positions: Ints, purpose: str = "train") -> Ints:
    """One seed per global position (step * global_batch + place in the batch); int64, non-negative, same shape."""
    return (words(key(purpose, seed, epoch), positions) >> np.uint64(1)).astype(np.int64)
