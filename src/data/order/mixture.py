"""The order of a mixture of sets: each goes round at its own pace."""

from collections.abc import Sequence

import numpy as np

from data.order.epoch import EpochOrder, ShardStarts
from data.order.hashing import Ints, key, permutation


class MixedOrder:
    """The order of a mixture. Each set goes round on its own: it is shuffled anew whenever it has been read through,

    at its own pace, whatever the epoch of the mixture. Position t of the run reads batch t of the endless sequence of
    each set's `EpochOrder`s, so this too is a function of (seed, epoch, step) only.

    Args:
        sizes: samples per shard that take part, for each set.
        counts: samples of each set in a global batch.
        batches: global batches of an epoch of the mixture.
        seed: key of the order.
        lanes, block: see `EpochOrder`.
    """

    def __init__(
        self, sizes: Sequence[Ints], counts: Sequence[int], batches: int, seed: int, *, lanes: int = 1, block: int = 8
    ) -> None:
        self.starts = [ShardStarts(part) for part in sizes]
        self.firsts = np.concatenate(([0], np.cumsum([part.num_samples for part in self.starts])))
        self.counts, self.batches, self.seed, self.lanes, self.block = counts, batches, seed, lanes, block
        self._rounds: dict[int, EpochOrder] = {}
        for number in range(len(counts)):
            self._round(number, 0)

    def _round(self, number: int, lap: int) -> EpochOrder:
        order = self._rounds.get(number)
        if order is None or order.epoch != lap:
            seed = key("mix", self.seed, number)
            order = EpochOrder(self.starts[number], self.counts[number], seed, lap, lanes=self.lanes, block=self.block)
            self._rounds[number] = order
        return order

    def batch(self, epoch: int, step: int) -> Ints:
        """Global batch `step` of an epoch; int64 (global_batch,), positions among all samples that take part."""
        lane = sum(self.counts) // self.lanes
        parts = []
        for number, count in enumerate(self.counts):
            lap, place = divmod(epoch * self.batches + step, self.starts[number].num_samples // count)
            chosen = self._round(number, lap).batch(place) + self.firsts[number]
            parts.append(chosen.reshape(self.lanes, count // self.lanes))
        mixed = np.concatenate(parts, axis=1)
        # Each lane holds the exact shares; a slice of it, as a rank reads it, holds them on average.
        return np.asarray(mixed[:, permutation(lane, "mix", self.seed, epoch, step)].ravel())
