"""Which sample comes when: integers in, integers out, nothing kept between calls.

The order of an epoch is a function of (seed, epoch, shard sizes, global batch, lanes, block). It does not know how many
processes read it: rank r of W takes the r-th slice of every global batch, so any W that divides the global batch sees
the same training. Resuming is evaluating the function at a later step; nothing is read to get there.

Randomness is splitmix64 (Steele, Lea, Flood 2014), written out here rather than taken from numpy's generators, whose
streams may change between numpy versions and would then change a resumed run.
"""

import hashlib
import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from swinmim.errors import ConfigError, DataError

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_A = np.uint64(0xBF58476D1CE4E5B9)
_MIX_B = np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)
# Two pairs: four rounds of an ideal function cannot be told from a random permutation (Luby, Rackoff 1988).
_ROUND_KEYS = np.array([0xA0761D6478BD642F, 0xE7037ED1A0B428DB], np.uint64)
_RUNS = 1024  # more would slow the start of an epoch, fewer coarsen its shuffle; fewer shards are a run each
VERSION = 3
"""Of the order. A checkpoint of another version cannot be continued exactly."""


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


def epoch_batches(num_samples: int, global_batch: int) -> int:
    """Whole global batches in an epoch. The rest, fewer than one batch, is left out; which ones, changes by epoch."""
    return num_samples // global_batch


def accumulation(global_batch: int, world: int, batch_size: int) -> int:
    """Micro-batches per optimizer step.

    Args:
        global_batch: samples per optimizer step over all processes.
        world: number of processes.
        batch_size: samples per process and forward pass.

    Raises:
        ConfigError: `world * batch_size` does not divide `global_batch`; the message lists the nearest legal values.
    """
    problems = [
        f"{name} = {value}"
        for name, value in (("global_batch_size", global_batch), ("processes", world), ("batch_size", batch_size))
        if value < 1
    ]
    if problems:
        raise ConfigError(f"Batch sizes and process counts must be at least 1, got {', '.join(problems)}.")
    unit = world * batch_size
    if global_batch % unit == 0:
        return global_batch // unit
    below, above = global_batch // unit * unit, -(-global_batch // unit) * unit
    advice = [f"global_batch_size={' or '.join(str(v) for v in (below, above) if v)}"]
    if global_batch % world == 0:
        share = global_batch // world
        legal = sorted((d for d in range(1, share + 1) if share % d == 0), key=lambda d: (abs(d - batch_size), d))[:2]
        advice.append(f"batch_size={' or '.join(map(str, sorted(legal)))}")
    raise ConfigError(
        f"global_batch_size must be a multiple of processes x batch_size, got {global_batch} with {world} x"
        f" {batch_size} = {unit}. Nearest legal: {', or '.join(advice)}."
    )


class ShardStarts:
    """Where each shard begins, shards laid end to end in their stored order; built once per set, not per epoch.

    Args:
        sizes: samples per shard; zeros are allowed.
    """

    def __init__(self, sizes: Sequence[int] | Ints) -> None:
        self.starts: Ints = np.concatenate(([0], np.cumsum(np.asarray(sizes, dtype=np.int64))))
        self.sizes: Ints = np.diff(self.starts)
        self.num_shards = len(self.sizes)
        self.num_samples = int(self.starts[-1])

    def around(self, slots: Ints) -> Ints:
        """Samples before shard `slot` on the ring of shards, whose second round follows the first."""
        rounds, shards = np.divmod(slots, self.num_shards)
        return np.asarray(self.starts[shards] + rounds * self.num_samples)


class EpochOrder:
    """The order of one epoch over a set of shards. Any step can be asked alone, at the same cost.

    The ring of shards is cut at a random place into at most 1024 runs of neighbours; the runs are permuted, and the
    shards in each run. This stream is entered at a random place and cut to whole global batches, then split into
    `lanes` of equal length. A lane is cut into equal blocks of about `block` shards, and samples are shuffled within a
    block, so that a reader works on few shards at a time. A global batch takes an equal share of each lane.

    Args:
        shards: samples per shard, or their `ShardStarts`, which saves adding them up again each epoch.
        global_batch: samples per optimizer step over all ranks.
        seed, epoch: the key of the order.
        lanes: independent streams; must divide `global_batch`. A multiple of the rank count keeps ranks on own shards.
        block: shards shuffled together, about; three quarters to one and a half times as many.

    Raises:
        ConfigError: `lanes` does not divide `global_batch`.
        DataError: fewer samples than one global batch.
    """

    def __init__(
        self,
        shards: Sequence[int] | Ints | ShardStarts,
        global_batch: int,
        seed: int,
        epoch: int,
        *,
        lanes: int = 1,
        block: int = 8,
    ) -> None:
        if lanes < 1 or global_batch % lanes:
            raise ConfigError(
                f"data.lanes must divide the global batch, got {lanes} lanes for a global batch of {global_batch}."
            )
        self.shards = shards if isinstance(shards, ShardStarts) else ShardStarts(shards)
        self.global_batch, self.seed, self.epoch, self.lanes = global_batch, seed, epoch, lanes
        self.num_samples = self.shards.num_samples
        self.batches = epoch_batches(self.num_samples, global_batch)
        if self.batches == 0:
            raise DataError(
                f"A global batch must not be larger than the set, got {global_batch} for {self.num_samples} samples."
                f" Use global_batch_size={self.num_samples} or less, or add images."
            )
        self._lane_length = self.batches * global_batch // lanes
        # Equal ones: a short block at the end would mix the few shards that are left over.
        blocks = round(self._lane_length * self.shards.num_shards / (block * self.num_samples))
        self._blocks = min(max(1, blocks), self._lane_length)
        # A fixed entry would always leave out the end of the same shard when there are few of them.
        self._entry = key("entry", seed, epoch) % self.num_samples
        self._block_key = key("block", seed, epoch)
        self._inner: dict[int, tuple[Ints, Ints]] = {}  # the runs now being read

    @cached_property
    def _runs(self) -> tuple[Ints, Ints]:
        """Borders of the permuted runs, as ring slots (runs, 2), and their starts in the stream (runs + 1,)."""
        count = self.shards.num_shards
        length = -(-count // _RUNS)
        first = key("cut", self.seed, self.epoch) % count
        borders = first + np.append(np.arange(0, count, length), count)
        chosen = permutation(len(borders) - 1, "runs", self.seed, self.epoch)
        sizes = np.diff(self.shards.around(borders))[chosen]
        return np.stack([borders[:-1], borders[1:]], 1)[chosen], np.concatenate(([0], np.cumsum(sizes)))

    def _run(self, number: int) -> tuple[Ints, Ints]:
        """First sample of each shard of a run in reading order, and where each starts in the stream."""
        found = self._inner.get(number)
        if found is None:
            borders, starts = self._runs
            begin, end = borders[number].tolist()
            slots = begin + permutation(end - begin, "run", self.seed, self.epoch, number)
            shards = np.where(slots < self.shards.num_shards, slots, slots - self.shards.num_shards)
            places = np.cumsum(self.shards.sizes[shards]) - self.shards.sizes[shards] + starts[number]
            found = self.shards.starts[shards], places
            if len(self._inner) > 4 * self.lanes:
                self._inner.clear()
            self._inner[number] = found
        return found

    def _samples(self, places: Ints) -> Ints:
        """Sample indices at these places of the stream of permuted shards."""
        runs = np.unique(np.searchsorted(self._runs[1], places, "right") - 1).tolist()
        firsts, starts = (np.concatenate(parts) for parts in zip(*map(self._run, runs), strict=True))
        shard = np.searchsorted(starts, places, "right") - 1
        return np.asarray(firsts[shard] + places - starts[shard])

    def batch(self, step: int) -> Ints:
        """Sample indices of global batch `step`; int64 (global_batch,), indices count through the shards in order."""
        if not 0 <= step < self.batches:
            raise IndexError(f"step {step} is outside this epoch of {self.batches} batches")
        share = self.global_batch // self.lanes
        begin, end = step * share, (step + 1) * share
        blocks = range(self._block(begin), self._block(end - 1) + 1)
        stream = np.concatenate([self._piece(block, begin, end) for block in blocks], axis=1).ravel()
        return self._samples((stream + self._entry) % self.num_samples)

    def _piece(self, block: int, begin: int, end: int) -> Ints:
        """Stream positions (lanes, places) of the part of places begin:end of each lane that lies in one block."""
        first, last = (number * self._lane_length // self._blocks for number in (block, block + 1))
        lanes = np.arange(self.lanes)[:, None]
        keys = words(self._block_key, (lanes << 40) + block)
        places = np.arange(max(begin, first), min(end, last)) - first
        return lanes * self._lane_length + first + shuffle(places, last - first, keys)

    def _block(self, place: int) -> int:
        """The block of a lane in which a place of it lies."""
        return ((place + 1) * self._blocks - 1) // self._lane_length


def rank_slice(global_batch: int, rank: int, world: int) -> slice:
    """The part of every global batch that rank `rank` of `world` reads."""
    if global_batch % world:
        raise ConfigError(f"The number of processes must divide the global batch, got {world} for {global_batch}.")
    share = global_batch // world
    return slice(rank * share, (rank + 1) * share)


def split(num_samples: int, held_out: int | float, seed: int) -> tuple[Ints, Ints]:
    """Hold out part of a set; the two parts are disjoint, sorted, and together everything.

    Args:
        num_samples: size of the set.
        held_out: a count (int) or a share between 0 and 1 (float, rounded to whole samples).
        seed: key of the choice.

    Returns:
        (train, held-out) sample indices, int64.

    Raises:
        DataError: nothing would be left to train on.
    """
    count = held_out if isinstance(held_out, int) else round(num_samples * held_out)
    if not 0 <= count < num_samples:
        raise DataError(f"The held-out part must leave samples to train on, got {held_out} of {num_samples} samples.")
    chosen = permutation(num_samples, "split", seed)
    return np.sort(chosen[count:]), np.sort(chosen[:count])


def few_labels(labels: Ints, per_class: int, seed: int) -> Ints:
    """Sorted indices of `per_class` samples of each class; samples with label -1 are never taken.

    Raises:
        DataError: some class has fewer samples; all such classes are listed.
    """
    chosen, short = [], []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            short.append(f"{label} ({len(members)})")
        chosen.append(members[permutation(len(members), "few_labels", seed, int(label))[:per_class]])
    if short or not chosen:
        raise DataError(
            f"Every class needs {per_class} samples; too few in class: {', '.join(short) or 'none labelled'}."
        )
    return np.sort(np.concatenate(chosen))
