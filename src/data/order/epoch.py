"""Which sample comes when: integers in, integers out, nothing kept between calls.

The order of an epoch is a function of (seed, epoch, shard sizes, global batch, lanes, block). It does not know how many
processes read it: rank r of W takes the r-th slice of every global batch, so any W that divides the global batch sees
the same training. Resuming is evaluating the function at a later step; nothing is read to get there.

Randomness is splitmix64 (Steele, Lea, Flood 2014), written out here rather than taken from numpy's generators, whose
streams may change between numpy versions and would then change a resumed run.
"""

from collections.abc import Sequence
from functools import cached_property, partial

import numpy as np

from data.order.hashing import Ints, key, permutation, shuffle, words
from swinmim.errors import ConfigError, DataError

_RUNS = 1024  # more would slow the start of an epoch, fewer coarsen its shuffle; fewer shards are a run each
BLOCK_SHARDS = 8
"""Shards that a run shuffles together, about."""
VERSION = 3
"""Of the order. A checkpoint of another version cannot be continued exactly."""


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
        block: int = BLOCK_SHARDS,
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


class EpochOrders:
    """The `EpochOrder` of any epoch, of which one is kept. Arguments as there, without the epoch."""

    counts = None

    def __init__(
        self, shards: Sequence[int] | Ints, global_batch: int, seed: int, *, lanes: int = 1, block: int = BLOCK_SHARDS
    ) -> None:
        self.shards = ShardStarts(shards)
        self._of = partial(EpochOrder, self.shards, global_batch, seed, lanes=lanes, block=block)
        self._order = self._of(0)

    def batch(self, epoch: int, step: int) -> Ints:
        """`EpochOrder.batch` of an epoch."""
        if self._order.epoch != epoch:
            self._order = self._of(epoch)
        return self._order.batch(step)
