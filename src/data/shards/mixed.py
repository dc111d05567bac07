"""Several shard sets as one: fixed shares of every global batch, and still a pure order."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from data.codecs.targets import TargetKind
from data.order.hashing import Ints
from data.order.mixture import MixedOrder
from data.shards.set import Record, SampleSet
from swinmim.errors import ConfigError, DataError


class MixedSet:
    """Sets one after the other, a `SampleSet`; sample indices count through them. It has no labels and no targets.

    Args:
        sets: at least two, of the same number of channels.
        weights: positive and finite; the share of each set is its weight over their sum.

    Raises:
        DataError: different channels.
        ConfigError: a weight that is not positive and finite.
    """

    streams: Literal[False] = False
    target: TargetKind | None = None

    def __init__(self, sets: Sequence[SampleSet], weights: Sequence[float]) -> None:
        if not all(0 < weight < math.inf for weight in weights):
            raise ConfigError(f"The weights of mixed sets must be positive and finite, got {list(weights)}.")
        if len({(part.channels, part.bits) for part in sets}) > 1:
            raise DataError(
                "Mixed sets must have the same channels and bits: "
                + ", ".join(f"{part.path} has {part.channels} of {part.bits} bits" for part in sets)
                + ". Write them alike (python -m data.write, --channels and --bits), or leave one out of data.mix."
            )
        self.sets, self.weights = tuple(sets), np.array(weights) / sum(weights)
        self.path = sets[0].path
        self.classes: tuple[str, ...] = ()
        self.channels, self.bits = sets[0].channels, sets[0].bits
        self.fork_safe = all(part.fork_safe for part in sets)
        self.fingerprint = hashlib.sha256("".join(part.fingerprint for part in sets).encode()).hexdigest()
        self.shards = tuple(shard for part in sets for shard in part.shards)
        mean = sum(w * np.array(part.mean) for w, part in zip(self.weights, sets, strict=True))
        power = sum(
            w * (np.array(part.std) ** 2 + np.array(part.mean) ** 2) for w, part in zip(self.weights, sets, strict=True)
        )
        self.mean, self.std = tuple(np.asarray(mean).tolist()), tuple(np.sqrt(power - mean**2).tolist())
        self._bounds = np.concatenate(([0], np.cumsum([len(part) for part in sets])))
        self.ahead_bytes = min((part.ahead_bytes for part in sets if part.ahead_bytes), default=0)

    def __len__(self) -> int:
        return int(self._bounds[-1])

    def sizes_of(self, indices: Ints) -> Ints:
        return np.concatenate(self._sizes_of_sets(indices))

    def _sizes_of_sets(self, indices: Ints) -> list[Ints]:
        cuts = np.searchsorted(indices, self._bounds)
        return [part.sizes_of(indices[cuts[n] : cuts[n + 1]] - self._bounds[n]) for n, part in enumerate(self.sets)]

    def read(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        part = int(np.searchsorted(self._bounds, index, "right")) - 1
        record = self.sets[part].read(index - int(self._bounds[part]))
        return record._replace(shard=str(self.sets[part].path / record.shard), label=-1, target=b"")

    def read_target(self, index: int) -> bytes:
        return b""

    def counts(self, global_batch: int, lanes: int = 1) -> list[int]:
        """The weights, rounded to whole samples per lane."""
        exact = self.weights * (global_batch // lanes)
        counts = np.floor(exact).astype(int)
        for n in np.argsort(counts - exact, kind="stable")[: global_batch // lanes - counts.sum()]:
            counts[n] += 1
        if (counts == 0).any():
            raise ConfigError(
                f"Every mixed set needs a share of each global batch; {global_batch} images in {lanes} lane(s) are too"
                f" few for weights {[round(float(w), 4) for w in self.weights]}. Raise the smallest weight."
            )
        return [int(count) * lanes for count in counts]

    def shortage(self, indices: Ints, global_batch: int, lanes: int = 1) -> str | None:
        cuts, counts = np.searchsorted(indices, self._bounds), self.counts(global_batch, lanes)
        for part, held, share in zip(self.sets, np.diff(cuts).tolist(), counts, strict=True):
            if held < share:
                return (
                    f"A mixed set must hold at least its share of a global batch: {part.path} has {held} training"
                    f" images, its share of global_batch_size={global_batch} is {share}. A lower weight against the"
                    " others (data.mix) makes that less."
                )
        return None

    def order(self, indices: Ints, global_batch: int, batches: int, seed: int, *, lanes: int = 1) -> MixedOrder:
        if short := self.shortage(indices, global_batch, lanes):
            raise DataError(short)
        return MixedOrder(self._sizes_of_sets(indices), self.counts(global_batch, lanes), batches, seed, lanes=lanes)

    def prepare(self, indices: Ints) -> None:
        owner = np.searchsorted(self._bounds, indices, "right") - 1
        for number, part in enumerate(self.sets):
            part.prepare(indices[owner == number] - self._bounds[number])

    def __reduce__(self) -> tuple[Any, ...]:
        return MixedSet, (self.sets, self.weights.tolist())
