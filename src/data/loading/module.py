"""The Lightning data modules: the data of a run as loaders. Their only state is the position in a pure order; resuming
seeks there and reads nothing.
"""

import hashlib
import logging
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from lightning.pytorch import LightningDataModule

from data.loading import position
from data.loading.ahead import Ahead
from data.loading.batch import Batch, LoaderSettings
from data.loading.dataset import BatchDataset
from data.loading.loader import BatchLoader
from data.loading.sampler import EvalSampler, TrainSampler
from data.loading.stream import StreamDataset, StreamLoader
from data.loading.views import View
from data.order.epoch import BLOCK_SHARDS, accumulation, epoch_batches
from data.order.epoch import VERSION as ORDER_VERSION
from data.order.hashing import Ints, key
from data.shards.set import SampleSet, larger_than_set
from data.shards.streamed import StreamSet
from swinmim.distributed import launch, local_rank, rank, world_size
from swinmim.errors import ConfigError, DataError, TooFewImages
from swinmim.private import adds_distributed_sampler

log = logging.getLogger(__name__)


class Part(NamedTuple):
    """A set, and which of its samples take part; None for all."""

    shards: SampleSet
    indices: Ints | None = None

    def sorted_indices(self) -> Ints:
        return np.arange(len(self.shards)) if self.indices is None else np.sort(self.indices)


class EvalData(LightningDataModule):
    """Every sample of a part once, in order, with fixed seeds.

    Args:
        part: what to evaluate on.
        view: from a decoded image to one of `settings.resolution`.
        settings: see there; of its seed, batch_size and loaders.
    """

    def __init__(self, part: Part, view: View, settings: LoaderSettings) -> None:
        super().__init__()
        self.part, self.view, self.settings = part, view, settings

    def val_dataloader(self) -> BatchLoader:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        shards, indices, size = self.part.shards, self.part.sorted_indices(), self.settings.batch_size
        return BatchLoader(
            BatchDataset(shards, indices, self.view, self.settings, "eval"),
            EvalSampler(indices, size, rank=rank, world=world),
            self.settings.num_workers,
            self.settings.max_bad_fraction,
            shards.fork_safe,
        )


class RunData(LightningDataModule):
    """What indexed and streamed data share: the steps of an epoch, and this process's share of them.

    Args:
        train: the training set.
        num_train: images of an epoch.
        num_val: images held out.
        settings: see there.

    Raises:
        ConfigError: lanes that do not divide the global batch.
        TooFewImages: the set does not give a global batch.
    """

    def __init__(self, train: SampleSet | StreamSet, num_train: int, num_val: int, settings: LoaderSettings) -> None:
        super().__init__()
        self.num_train, self.num_val, self.settings = num_train, num_val, settings
        self.host_batch: Batch | None = None
        """The batch under way, as it lay before it went to the device."""
        if settings.global_batch % settings.lanes:
            raise ConfigError(
                f"data.lanes must divide global_batch_size, got {settings.lanes} for {settings.global_batch}. Add"
                f" data.lanes={math.gcd(settings.lanes, settings.global_batch)}."
            )
        if short := self._shortage(settings.global_batch, settings.lanes):
            raise TooFewImages(short, num_train, self._fits)

    def _shortage(self, global_batch: int, lanes: int) -> str | None:
        """Why the set does not give a global batch; None where it does."""
        raise NotImplementedError

    def _fits(self, global_batch: int, lanes: int) -> bool:
        try:
            return self._shortage(global_batch, lanes) is None
        except ConfigError:  # one of a mixture has no share of it
            return False

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the same for any number of processes."""
        return epoch_batches(self.num_train, self.settings.global_batch)

    @property
    def world(self) -> int:
        return self.trainer.world_size if self.trainer else world_size()

    @property
    def rank(self) -> int:
        return self.trainer.global_rank if self.trainer else rank()

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step in this run."""
        return accumulation(self.settings.global_batch, self.world, self.settings.batch_size)

    def setup(self, stage: str | None = None) -> None:
        """Check that this number of processes can share the set.

        Raises:
            DataError: more processes than samples.
            ConfigError: the batch sizes do not fit, or the trainer would shard the data a second time.
        """
        if self.world > self.num_train:
            raise DataError(
                f"Each process needs at least one image, got {self.world} processes for {self.num_train} images."
            )
        steps = self.accumulation
        trainer = self.trainer
        if trainer is None or stage != "fit":
            return
        if self.world > 1 and adds_distributed_sampler(trainer):
            raise ConfigError(
                "The data is already divided among processes: build the Trainer with use_distributed_sampler=False."
            )
        if trainer.accumulate_grad_batches != steps:
            raise ConfigError(
                f"accumulate_grad_batches must be global_batch_size / (processes x batch_size) = {steps},"
                f" got {trainer.accumulate_grad_batches}. Build the Trainer with accumulate_grad_batches={steps}."
            )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.host_batch = batch
        return batch

    def sample_names(self, indices: Iterable[int]) -> list[str]:
        """Where training samples come from, "shard: key.suffix"; those of a stream have no such name."""
        return []


class ShardData(RunData):
    """Indexed images: loaders of `Batch`es in a pure order.

    Args:
        train, val: what to train and to validate on; no indices of `val`, no validation.
        train_view, eval_view: from a decoded image to one of `settings.resolution`.
        settings: see there.

    Raises:
        ConfigError: lanes that do not divide the global batch.
        TooFewImages: the global batch is larger than the set, or a mixed set smaller than its share of it.
    """

    def __init__(self, train: Part, val: Part, train_view: View, eval_view: View, settings: LoaderSettings) -> None:
        self.train, self.train_indices, self.train_view = train.shards, train.sorted_indices(), train_view
        self.val, self.val_indices, self.eval_view = val.shards, val.sorted_indices(), eval_view
        super().__init__(train.shards, len(self.train_indices), len(self.val_indices), settings)
        self._order = self.train.order(
            self.train_indices,
            settings.global_batch,
            self.steps_per_epoch,
            settings.seed,
            lanes=settings.lanes,
        )
        self._sampler: TrainSampler | None = None
        self._resumed: tuple[int, int] | None = None  # (epoch, global batches done in it), until the loops know it too

    def _shortage(self, global_batch: int, lanes: int) -> str | None:
        return self.train.shortage(self.train_indices, global_batch, lanes)

    def train_dataloader(self) -> BatchLoader:
        """Micro-batches of this rank."""
        self._sampler = TrainSampler(
            self.train_indices,
            self._order,
            self.settings.global_batch,
            self.settings.batch_size,
            rank=self.rank,
            world=self.world,
            ahead=self._fetch_ahead if self.train.ahead_bytes and local_rank() == 0 else None,
            on_epoch=self._align_loops,
        )
        if self.trainer is not None:
            position.leave_closed_epochs(self.trainer)
        if self._resumed is not None:
            epoch, batches = self._resumed
            self._sampler.seek(epoch, batches * self.accumulation)
        dataset = BatchDataset(self.train, self.train_indices, self.train_view, self.settings, "train")
        return self._loader(dataset, self._sampler)

    def _fetch_ahead(self, coming: Iterator[Ints]) -> Ahead:
        """One thread per node, for all its ranks."""
        launched = launch()
        processes = launched.per_node if launched else self.trainer.num_devices if self.trainer else 1
        share = self.settings.global_batch // self.world
        node = slice(self.rank * share, (self.rank + processes) * share)
        batch_bytes = sum(s.bytes for s in self.train.shards) / len(self.train) * share * processes
        batches = min(256, max(1, int(self.train.ahead_bytes / batch_bytes)))
        return Ahead(self.train.prepare, (indices[node] for indices in coming), batches)

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """Every held-out sample once, with fixed seeds."""
        if self.num_val == 0:
            return []
        dataset = BatchDataset(self.val, self.val_indices, self.eval_view, self.settings, "eval")
        size = self.settings.batch_size
        return self._loader(dataset, EvalSampler(self.val_indices, size, rank=self.rank, world=self.world))

    def _loader(self, dataset: BatchDataset, sampler: TrainSampler | EvalSampler) -> BatchLoader:
        fork_safe = self.train.fork_safe and self.val.fork_safe
        return BatchLoader(dataset, sampler, self.settings.num_workers, self.settings.max_bad_fraction, fork_safe)

    def sample_names(self, indices: Iterable[int]) -> list[str]:
        records = (self.train.read(index) for index in indices if index >= 0)
        return [record.name for record in records]

    def _order_key(self) -> dict[str, Any]:
        """All that the order depends on, except the epoch."""
        return {
            "order": ORDER_VERSION,
            "fingerprint": self.train.fingerprint,
            "samples": hashlib.sha256(self.train_indices.astype("<i8").tobytes()).hexdigest(),
            "seed": self.settings.seed,
            "global_batch": self.settings.global_batch,
            "lanes": self.settings.lanes,
            "block": BLOCK_SHARDS,
            "mix": self._order.counts,
        }

    def state_dict(self) -> dict[str, Any]:
        """The position and what the order depends on; plain values only."""
        epoch, batches = (0, 0) if self.trainer is None else position.reached(self.trainer, self.accumulation)
        return {"version": 1, "epoch": epoch, "batches": batches, **self._order_key()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, with any number of processes and workers.

        Raises:
            DataError: the data, its split, seed or global batch are not those of the checkpoint.
        """
        position.require_same_order(state_dict, self._order_key())
        self._resumed = (state_dict["epoch"], state_dict["batches"])
        if self._sampler is not None:
            self._sampler.seek(self._resumed[0], self._resumed[1] * self.accumulation)

    def _align_loops(self, epoch: int) -> None:
        if self._resumed is None or self.trainer is None:
            return
        due, batches = self._resumed
        self._resumed = None
        position.align_loops(self.trainer, epoch, due, batches * self.accumulation)


class StreamData(RunData):
    """Images of tars without an index; none are held out. A resumed run goes on with other images: streams have no
    position.

    Args:
        train: the stream.
        view: see `ShardData`.
        settings: see there; without lanes.
    """

    def __init__(self, train: StreamSet, view: View, settings: LoaderSettings) -> None:
        self.train, self.view = train, view
        super().__init__(train, len(train), 0, settings)

    def _shortage(self, global_batch: int, lanes: int) -> str | None:
        return larger_than_set(global_batch, len(self.train), self.train.path)

    def train_dataloader(self) -> StreamLoader:
        step = 0
        if self.trainer is not None:
            position.leave_closed_epochs(self.trainer)
            step = self.trainer.global_step
        start = key("start", self.settings.seed, step) >> 1
        dataset = StreamDataset(self.train, self.view, self.settings, start, rank=self.rank, world=self.world)
        return StreamLoader(
            dataset,
            self.steps_per_epoch * self.accumulation,
            self.settings.num_workers,
            self.settings.max_bad_fraction,
        )

    def val_dataloader(self) -> list[Any]:
        return []

    def state_dict(self) -> dict[str, Any]:
        return {"version": 1, "streaming": True}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        log.warning("data.streaming_samples: the run goes on with newly drawn images; this resume is not exact")
