"""The order of a mixture of sets: each goes round at its own pace."""

from collections.abc import Sequence

import numpy as np

from data.order.epoch import EpochOrders, epoch_batches
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
        lanes: see `EpochOrder`.
    """

    def __init__(self, sizes: Sequence[Ints], counts: list[int], batches: int, seed: int, *, lanes: int = 1) -> None:
        self._sets = [
            EpochOrders(part, count, key("mix", seed, number), lanes=lanes)
            for number, (part, count) in enumerate(zip(sizes, counts, strict=True))
        ]
        self._firsts = np.cumsum([0, *(part.shards.num_samples for part in self._sets)])
        self.counts, self.batches, self.seed, self.lanes = counts, batches, seed, lanes

    def batch(self, epoch: int, step: int) -> Ints:
        """Global batch `step` of an epoch; int64 (global_batch,), positions among all samples that take part."""
        lane = sum(self.counts) // self.lanes
        parts = []
        for number, count in enumerate(self.counts):
            part = self._sets[number]
            lap, place = divmod(epoch * self.batches + step, epoch_batches(part.shards.num_samples, count))
            chosen = part.batch(lap, place) + self._firsts[number]
            parts.append(chosen.reshape(self.lanes, count // self.lanes))
        mixed = np.concatenate(parts, axis=1)
        # Each lane holds the exact shares; a slice of it, as a rank reads it, holds them on average.
        return np.asarray(mixed[:, permutation(lane, "mix", self.seed, epoch, step)].ravel())
