"""Which samples this process loads next: the pure order of `data/order/epoch.py` cut into this rank's micro-batches."""

import copy
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from data.loading.ahead import Ahead
from data.order.epoch import accumulation, epoch_batches
from data.order.hashing import Ints
from data.shards.set import BatchOrder


class Place(NamedTuple):
    """One sample to deliver: epoch, global position in it, sample index in the shard set, and whether it counts."""

    epoch: int
    position: int
    sample: int
    valid: bool = True


class TrainSampler(Sampler[list[Place]]):
    """Micro-batches of one rank, epoch by epoch; a batch sampler for `DataLoader(batch_sampler=...)`.

    Args:
        indices: sorted sample indices that take part, int64.
        order: positions in `indices` of each global batch.
        global_batch: samples per optimizer step over all ranks.
        batch_size: samples of one micro-batch of one rank.
        rank, world: this process among all.
        ahead: starts to prepare what comes, from an iterator over the samples of the following global batches.
        on_epoch: called by `set_epoch`, before the epoch is read.
    """

    def __init__(
        self,
        indices: Ints,
        order: BatchOrder,
        global_batch: int,
        batch_size: int,
        *,
        rank: int = 0,
        world: int = 1,
        ahead: Callable[[Iterator[Ints]], Ahead] | None = None,
        on_epoch: Callable[[int], None] | None = None,
    ) -> None:
        self.indices, self.global_batch, self.batch_size = indices, global_batch, batch_size
        self.accumulation = accumulation(global_batch, world, batch_size)
        share = global_batch // world
        self.slice = slice(rank * share, (rank + 1) * share)
        self._order, self._ahead, self._on_epoch = order, ahead, on_epoch
        self.seek(0, 0)

    @property
    def sampler(self) -> "TrainSampler":
        """Lightning tells a loader's epoch to `loader.batch_sampler.sampler`."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Read epoch `epoch` from the next `iter` on."""
        self.epoch = epoch
        if self._on_epoch is not None:
            self._on_epoch(epoch)

    def seek(self, epoch: int, start_batch: int) -> None:
        """Leave out the first `start_batch` micro-batches of `epoch`, and of no other."""
        self.epoch = self._start_epoch = epoch
        self._start_batch = start_batch

    def __len__(self) -> int:
        """Micro-batches of a whole epoch, also where the first one is entered midway."""
        return epoch_batches(len(self.indices), self.global_batch) * self.accumulation

    @property
    def to_come(self) -> int:
        """Micro-batches of the next `iter`."""
        return len(self) - self._start

    @property
    def _start(self) -> int:
        return self._start_batch if self.epoch == self._start_epoch else 0

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, start = self.epoch, self._start
        order = copy.deepcopy(self._order)
        ahead = self._start_ahead(start // self.accumulation)
        try:
            for micro in range(start, len(self)):
                step, part = divmod(micro, self.accumulation)
                if part == 0 or micro == start:
                    chosen = self.indices[order.batch(epoch, step)[self.slice]].tolist()
                    if ahead is not None:
                        ahead.advance()
                begin = part * self.batch_size
                first = step * self.global_batch + self.slice.start + begin
                yield [Place(epoch, first + n, i) for n, i in enumerate(chosen[begin : begin + self.batch_size])]
        finally:
            if ahead is not None:
                ahead.stop()

    def _start_ahead(self, step: int) -> Ahead | None:
        if self._ahead is None:
            return None
        # The thread has an order of its own: the one of this process keeps what it works on between calls.
        order, epoch = copy.deepcopy(self._order), self.epoch
        return self._ahead(self.indices[order.batch(epoch, s)] for s in range(step, len(self) // self.accumulation))


class EvalSampler(Sampler[list[Place]]):
    """All samples once, in order, the same on every pass; the last batches are filled with repeats marked invalid.

    Every rank gets the same number of batches. Batch b of rank r holds positions (b * world + r) * batch_size onwards.
    """

    def __init__(self, indices: Ints, batch_size: int, *, rank: int = 0, world: int = 1) -> None:
        self.indices, self.batch_size, self.rank, self.world = indices, batch_size, rank, world

    def __len__(self) -> int:
        return -(-len(self.indices) // (self.batch_size * self.world))

    @property
    def to_come(self) -> int:
        """Batches of the next `iter`."""
        return len(self)

    def __iter__(self) -> Iterator[list[Place]]:
        count = len(self.indices)
        for batch in range(len(self)):
            positions = (batch * self.world + self.rank) * self.batch_size + np.arange(self.batch_size)
            yield [Place(0, p, int(self.indices[p % count]), p < count) for p in positions.tolist()]
