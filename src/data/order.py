"""Which sample comes when: integers in, integers out, nothing kept between calls.

The order of an epoch is a function of (seed, epoch, shard sizes, global batch, lanes, block). It does not know how many
processes read it: rank r of W takes the r-th slice of every global batch, so any W that divides the global batch sees
the same training. Resuming is evaluating the function at a later step; nothing is read to get there.

Randomness is splitmix64 (Steele, Lea, Flood 2014), written out here rather than taken from numpy's generators, whose
streams may change between numpy versions and would then change a resumed run.
"""

import hashlib
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


def key(*parts: int | str) -> int:
    """A 64-bit key for these parts. Text and numbers are kept apart, so no two lists of parts share a spelling."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def words(start: int, counters: Ints) -> Words:
    """The splitmix64 output of key `start` at each counter; uint64, same shape as `counters`."""
    with np.errstate(over="ignore"):
        z = np.uint64(start) + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_A
        z = (z ^ (z >> np.uint64(27))) * _MIX_B
    return np.asarray(z ^ (z >> np.uint64(31)))


def permutation(count: int, *parts: int | str) -> Ints:
    """A permutation of range(count), keyed by `parts`; int64 (count,)."""
    return np.argsort(words(key(*parts), np.arange(count)), kind="stable")


def uniforms(sample_seed: int, count: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) that depend on `sample_seed` only; float64 (count,)."""
    return (words(sample_seed, np.arange(count)) >> np.uint64(11)).astype(np.float64) * 2.0**-53


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


class EpochOrder:
    """The order of one epoch over a set of shards.

    The shards are permuted and laid end to end as one ring, entered at a random place, and cut to whole global
    batches. That stream is split into `lanes` of equal length; inside a lane, samples are shuffled within blocks of
    `block` consecutive shards, so that a reader works on few shards at a time. A global batch takes an equal share of
    each lane.

    Args:
        shard_sizes: samples per shard; zeros are allowed.
        global_batch: samples per optimizer step over all ranks.
        seed, epoch: the key of the order.
        lanes: independent streams; must divide `global_batch`. A multiple of the rank count keeps ranks on own shards.
        block: shards shuffled together.

    Raises:
        ConfigError: `lanes` does not divide `global_batch`.
        DataError: fewer samples than one global batch.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int] | Ints,
        global_batch: int,
        seed: int,
        epoch: int,
        *,
        lanes: int = 1,
        block: int = 8,
    ) -> None:
        if lanes < 1 or global_batch % lanes:
            raise ConfigError(
                f"lanes must divide the global batch, got {lanes} lanes for a global batch of {global_batch}."
            )
        self.sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.global_batch, self.seed, self.epoch, self.lanes, self.block = global_batch, seed, epoch, lanes, block
        self.num_samples = int(self.sizes.sum())
        self.batches = epoch_batches(self.num_samples, global_batch)
        if self.batches == 0:
            raise DataError(
                f"A global batch must not be larger than the set, got {global_batch} for {self.num_samples} samples."
                f" Use global_batch_size={self.num_samples} or less, or add images."
            )
        self._lane_length = self.batches * global_batch // lanes
        self._shuffled: dict[tuple[int, int], Ints] = {}  # the blocks now being read, one or two per lane

    @cached_property
    def _shards(self) -> tuple[Ints, Ints, int]:
        """Permuted shards, their starts on the ring (one longer, ends with the total), and where the stream enters."""
        shards = permutation(len(self.sizes), "shards", self.seed, self.epoch)
        starts = np.concatenate(([0], np.cumsum(self.sizes[shards])))
        # A fixed entry would always leave out the end of the same shard when there are few of them.
        entry = key("entry", self.seed, self.epoch) % self.num_samples
        return shards, starts, entry

    @cached_property
    def _first(self) -> Ints:
        """Index of the first sample of each shard."""
        return np.concatenate(([0], np.cumsum(self.sizes)[:-1]))

    def _lane_edges(self, lane: int) -> Ints:
        """Borders of the blocks of a lane, as stream positions, both ends included."""
        begin, end = lane * self._lane_length, (lane + 1) * self._lane_length
        _, starts, entry = self._shards
        ring = np.unique((starts[:-1] - entry) % self.num_samples)
        inner = ring[np.searchsorted(ring, begin, "right") : np.searchsorted(ring, end, "left")]
        return np.concatenate(([begin], inner[self.block - 1 :: self.block], [end]))

    @cached_property
    def _edges(self) -> list[Ints]:
        return [self._lane_edges(lane) for lane in range(self.lanes)]

    def _shuffle(self, lane: int, block: int) -> Ints:
        """Stream positions of a block in the order in which they are read."""
        found = self._shuffled.get((lane, block))
        if found is None:
            begin, end = self._edges[lane][block : block + 2]
            found = begin + permutation(int(end - begin), "block", self.seed, self.epoch, lane, block)
            for stale in [k for k in self._shuffled if k[0] == lane and abs(k[1] - block) > 1]:
                del self._shuffled[stale]
            self._shuffled[lane, block] = found
        return found

    def _stream(self, lane: int, begin: int, end: int) -> Ints:
        """Shuffled stream positions `begin:end`, both inside one lane."""
        edges = self._edges[lane]
        first = int(np.searchsorted(edges, begin, "right")) - 1
        pieces = []
        for block in range(first, len(edges) - 1):
            left, right = int(edges[block]), int(edges[block + 1])
            if left >= end:
                break
            pieces.append(self._shuffle(lane, block)[max(begin, left) - left : min(end, right) - left])
        return np.concatenate(pieces)

    def batch(self, step: int) -> Ints:
        """Sample indices of global batch `step`; int64 (global_batch,), indices count through the shards in order."""
        if not 0 <= step < self.batches:
            raise IndexError(f"step {step} is outside this epoch of {self.batches} batches")
        share = self.global_batch // self.lanes
        stream = np.concatenate(
            [
                self._stream(
                    lane, lane * self._lane_length + step * share, lane * self._lane_length + (step + 1) * share
                )
                for lane in range(self.lanes)
            ]
        )
        shards, starts, entry = self._shards
        place = (stream + entry) % self.num_samples
        slot = np.searchsorted(starts, place, "right") - 1
        return np.asarray(self._first[shards[slot]] + place - starts[slot])


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
