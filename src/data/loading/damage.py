"""How much damage a run bears. All ranks count together, every few batches, and so end at the same batch: one that
stopped alone would leave the others waiting for it for ever.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from data.loading.batch import Batch
from data.shards.streamed import FEW_SHARDS
from swinmim.errors import DataError

_FEW_BAD = 4  # damaged images that are always tolerated per epoch and process, however small the set
_FEW_STREAMED = 16  # the same of a stream, over the whole run
_EVERY = 16  # batches between two counts over all ranks: each waits for the device
_NAMED = "named in the warnings above"


class Tally(ABC):
    """Counts of this process, added up over all ranks now and then.

    Args:
        kinds: how many numbers are counted.
    """

    def __init__(self, kinds: int) -> None:
        self._world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self._counts, self._batches = torch.zeros(kinds, dtype=torch.int64), 0

    def add(self, met: Tensor) -> None:
        """What one batch met; int64 (kinds,)."""
        self._counts += met
        self._batches += 1
        if self._world == 1 or self._batches % _EVERY == 0:
            self.agree()

    def agree(self) -> None:
        """Check what all ranks met until now; all of them call it, also with the last batch of an epoch."""
        self._batches, counts = 0, self._counts
        if self._world > 1:
            counts = counts.to("cuda" if "nccl" in dist.get_backend() else "cpu", copy=True)
            dist.all_reduce(counts)
        self._judge(counts.tolist(), self._world)

    @abstractmethod
    def _judge(self, counts: list[int], world: int) -> None:
        """Raise where the sums over so many processes are too much."""


class IndexedDamage(Tally):
    """Damaged images of an epoch.

    Args:
        path: of the set.
        samples: of an epoch, over all ranks.
        fraction: share of them that may be damaged.
    """

    def __init__(self, path: Path, samples: int, fraction: float) -> None:
        super().__init__(2)
        self._path, self._share = path, -int(-samples * fraction // 1)

    def add_batch(self, batch: Batch) -> None:
        self.add(torch.stack([batch["substituted"].sum(), (batch["index"] < 0).sum()]))

    def _judge(self, counts: list[int], world: int) -> None:
        bad, hopeless = counts
        limit = max(_FEW_BAD * world, self._share)
        if hopeless:
            raise DataError(
                f"Most images of {self._path} cannot be decoded: for {hopeless} of them, several substitutes in a row"
                f" were damaged too. They are {_NAMED}. Write the shards again."
            )
        if bad > limit:
            raise DataError(
                f"At most {limit} images of an epoch may be damaged (max_bad_fraction), got {bad} from {self._path};"
                f" they are {_NAMED}. Write the shards again, or raise the limit."
            )


class StreamDamage(Tally):
    """Damaged images and shards of a stream, over the whole run; see `StreamDataset` for what it counts.

    Args:
        fraction: share of images, and of shards, that may be damaged.
    """

    def __init__(self, fraction: float) -> None:
        super().__init__(5)
        self._fraction = fraction

    def _judge(self, counts: list[int], world: int) -> None:
        images, bad, shards, bad_shards, hopeless = counts
        limit = f"more than max_bad_fraction={self._fraction}. They are {_NAMED}."
        if hopeless:
            raise DataError(
                f"The stream holds no further image: {bad_shards} of {shards} shards are damaged. They are {_NAMED}."
            )
        if bad > max(_FEW_STREAMED * world, self._fraction * images):
            raise DataError(f"{bad} of {images} images are damaged, {limit}")
        if bad_shards > max(FEW_SHARDS * world, self._fraction * shards):
            raise DataError(f"{bad_shards} of {shards} shards are damaged, {limit}")
