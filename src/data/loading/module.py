"""The Lightning data module. Its only state is the position in a pure order; resuming seeks there and reads nothing.

How Lightning resumes: it restores `batch_progress.current` (micro-batches done in this epoch), adds it to the number of
fetched batches, and ends the epoch when that reaches `len(loader)`. So the loader keeps its full length and, in the
first epoch after a resume, begins at the batch that is due. Written against Lightning 2.6.6.
"""

import hashlib
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loops.loop import _Loop
from lightning.pytorch.loops.progress import _ProcessedTracker, _Progress

from data.codecs.decode import Decoder
from data.loading.ahead import Ahead
from data.loading.batch import LabelledBatch
from data.loading.dataset import BatchDataset
from data.loading.loader import BatchLoader
from data.loading.sampler import EvalSampler, TrainSampler
from data.loading.views import Augment, CenterCrop
from data.order.epoch import VERSION as ORDER_VERSION
from data.order.epoch import accumulation, epoch_batches
from data.order.hashing import Ints
from data.shards.set import BatchOrder, SampleSet
from swinmim.distributed import launch, local_rank, rank, world_size
from swinmim.errors import ConfigError, DataError


def _counters(progress: _Progress) -> _ProcessedTracker:
    assert isinstance(progress.current, _ProcessedTracker)
    return progress.current


class ShardData(LightningDataModule):
    """What pretraining and classification share: order, position, resume. Arguments as for `PretrainData`."""

    def __init__(
        self,
        train: SampleSet,
        train_indices: Ints | None,
        val: SampleSet,
        val_indices: Ints | None,
        *,
        resolution: tuple[int, int],
        seed: int,
        global_batch: int,
        batch_size: int,
        num_workers: int,
        eval_batch_size: int | None,
        crop_ratio: float,
        max_bad_fraction: float,
        lanes: int,
        block: int,
        decoder: Decoder,
    ) -> None:
        super().__init__()
        self.train, self.val = train, val
        self.train_indices = np.arange(len(train)) if train_indices is None else np.sort(train_indices)
        self.val_indices = np.arange(len(val)) if val_indices is None else np.sort(val_indices)
        self.resolution, self.seed, self.crop_ratio = resolution, seed, crop_ratio
        self.global_batch, self.batch_size, self.num_workers = global_batch, batch_size, num_workers
        self.eval_batch_size = eval_batch_size or batch_size
        self.max_bad_fraction, self.lanes, self.block, self.decoder = max_bad_fraction, lanes, block, decoder
        if global_batch % lanes:
            raise ConfigError(
                f"data.lanes must divide global_batch_size, got {lanes} for {global_batch}. Add data.lanes="
                f"{math.gcd(lanes, global_batch)}."
            )
        self.host_batch: LabelledBatch | None = None
        """The batch under way, as it lay before it went to the device."""
        self._sampler: TrainSampler | None = None
        self._resumed: tuple[int, int] | None = None  # (epoch, global batches done in it), until the loops know it too
        if global_batch > len(self.train_indices):
            raise DataError(
                f"A global batch must not be larger than the training set, got {global_batch} for"
                f" {len(self.train_indices)} images in {train.path}. Use global_batch_size={len(self.train_indices)}"
                " or less."
            )
        self.order = self._order()

    @abstractmethod
    def _train_augment(self) -> Augment: ...

    def _order(self) -> BatchOrder:
        steps = self.steps_per_epoch
        return self.train.order(
            self.train_indices, self.global_batch, steps, self.seed, lanes=self.lanes, block=self.block
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the same for any number of processes."""
        return epoch_batches(len(self.train_indices), self.global_batch)

    @property
    def world(self) -> int:
        return self.trainer.world_size if self.trainer else world_size()

    @property
    def rank(self) -> int:
        return self.trainer.global_rank if self.trainer else rank()

    @property
    def accumulation(self) -> int:
        """Micro-batches per optimizer step in this run."""
        return accumulation(self.global_batch, self.world, self.batch_size)

    def setup(self, stage: str | None = None) -> None:
        """Check that this number of processes can share the set.

        Raises:
            DataError: more processes than samples.
            ConfigError: the batch sizes do not fit, or the trainer would shard the data a second time.
        """
        if self.world > len(self.train_indices):
            raise DataError(
                f"Each process needs at least one image, got {self.world} processes for"
                f" {len(self.train_indices)} images."
            )
        steps = self.accumulation
        trainer = self.trainer
        if trainer is None or stage != "fit":
            return
        if self.world > 1 and trainer._accelerator_connector.use_distributed_sampler:
            raise ConfigError(
                "The data is already divided among processes: build the Trainer with use_distributed_sampler=False."
            )
        if trainer.accumulate_grad_batches != steps:
            raise ConfigError(
                f"accumulate_grad_batches must be global_batch_size / (processes x batch_size) = {steps},"
                f" got {trainer.accumulate_grad_batches}. Build the Trainer with accumulate_grad_batches={steps}."
            )

    def train_dataloader(self) -> BatchLoader:
        """Micro-batches of this rank, as `ImageBatch` or `LabelledBatch`."""
        self._sampler = TrainSampler(
            self.train_indices,
            self.order,
            self.global_batch,
            self.batch_size,
            rank=self.rank,
            world=self.world,
            ahead=self._fetch_ahead if self.train.ahead_bytes and local_rank() == 0 else None,
            on_epoch=self._align_loops,
        )
        self._leave_closed_epochs()
        if self._resumed is not None:
            epoch, batches = self._resumed
            self._sampler.seek(epoch, batches * self.accumulation)
        dataset = BatchDataset(
            self.train, self.train_indices, self._train_augment(), self.resolution, self.seed, "train", self.decoder
        )
        return self._loader(dataset, self._sampler)

    def _fetch_ahead(self, coming: Iterator[Ints]) -> Ahead:
        """One thread per node, for all its ranks."""
        launched = launch()
        processes = launched.per_node if launched else self.trainer.num_devices if self.trainer else 1
        share = self.global_batch // self.world
        node = slice(self.rank * share, (self.rank + processes) * share)
        batch_bytes = sum(s.bytes for s in self.train.shards) / len(self.train) * share * processes
        batches = min(256, max(1, int(self.train.ahead_bytes / batch_bytes)))
        return Ahead(self.train.prepare, (indices[node] for indices in coming), batches)

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """Every held-out sample once, centre crops, fixed seeds, always as `LabelledBatch` with `valid`."""
        if len(self.val_indices) == 0:
            return []
        view = CenterCrop(self.resolution, self.crop_ratio)
        dataset = BatchDataset(self.val, self.val_indices, view, self.resolution, self.seed, "eval", self.decoder)
        sampler = EvalSampler(self.val_indices, self.eval_batch_size, rank=self.rank, world=self.world)
        return self._loader(dataset, sampler)

    def _loader(self, dataset: BatchDataset, sampler: TrainSampler | EvalSampler) -> BatchLoader:
        fork_safe = self.train.fork_safe and self.val.fork_safe
        return BatchLoader(dataset, sampler, self.num_workers, self.max_bad_fraction, fork_safe)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.host_batch = batch
        return batch

    def sample_names(self, indices: Iterable[int]) -> list[str]:
        """Where training samples come from, "shard: key.suffix"; those of a stream, index -1, have no such name."""
        records = (self.train.read(index) for index in indices if index >= 0)
        return [f"{record.shard}: {record.key}.{record.suffix}" for record in records]

    # Position and resume ---------------------------------------------------------------------------------------------

    def position(self) -> tuple[int, int]:
        """(epoch, global batches of it that were trained on), from the trainer's own counters."""
        trainer = self.trainer
        if trainer is None:
            return (0, 0)
        epochs = _counters(trainer.fit_loop.epoch_progress)
        batches = _counters(trainer.fit_loop.epoch_loop.batch_progress).processed
        if batches == 0:
            return (epochs.processed, 0)
        if batches >= trainer.num_training_batches:  # between epochs too: the counter still shows the last one
            return (epochs.started, 0)
        # Not `processed`: an epoch that max_steps broke off counts as processed.
        return (epochs.started - 1, batches // self.accumulation)

    def _order_key(self) -> dict[str, Any]:
        """All that the order depends on, except the epoch."""
        return {
            "order": ORDER_VERSION,
            "fingerprint": self.train.fingerprint,
            "samples": hashlib.sha256(self.train_indices.astype("<i8").tobytes()).hexdigest(),
            "seed": self.seed,
            "global_batch": self.global_batch,
            "lanes": self.lanes,
            "block": self.block,
            "mix": self.train.counts(self.global_batch, self.lanes),
        }

    def state_dict(self) -> dict[str, Any]:
        """The position and what the order depends on; plain values only."""
        epoch, batches = self.position()
        return {"version": 1, "epoch": epoch, "batches": batches, **self._order_key()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken, with any number of processes and workers.

        Raises:
            DataError: the data, its split, seed or global batch are not those of the checkpoint.
        """
        ways = {
            "order": "finish that run with the version of this program that began it",
            "fingerprint": "point data.path at the shards of that run",
            "samples": "use the same validation split and label selection",
            "seed": "set the seed of that run",
            "global_batch": "set the global_batch_size of that run; batch_size and the number of processes may differ",
            "lanes": "set the data.lanes of that run",
            "block": "finish that run with the version of this program that began it",
            "mix": "set the data.mix of that run",
        }
        changed = [
            f"{name}: checkpoint {state_dict.get(name)}, now {now} ({ways[name]})"
            for name, now in self._order_key().items()
            if state_dict.get(name) != now
        ]
        if changed:
            raise DataError(
                "A resumed run must read the same samples in the same order. Changed since the checkpoint:\n  "
                + "\n  ".join(changed)
                + "\nTo train on with other data instead, start a new run from its weights (ckpt=...)."
            )
        self._resumed = (state_dict["epoch"], state_dict["batches"])
        if self._sampler is not None:
            self._sampler.seek(self._resumed[0], self._resumed[1] * self.accumulation)

    def _leave_closed_epochs(self) -> None:
        """After a resume between two epochs, begin the next one; called first after the counters are restored.

        With max_steps Lightning would enter the last epoch again, and count all later ones wrongly.
        """
        if self.trainer is None:
            return
        epochs = _counters(self.trainer.fit_loop.epoch_progress)
        if epochs.ready == epochs.started == epochs.processed:
            _Loop.restarting.fset(self.trainer.fit_loop, False)  # type: ignore[attr-defined]

    def _align_loops(self, epoch: int) -> None:
        """Make the restored counters say what the sampler delivers; called before the first epoch after a resume.

        They count micro-batches of the run that wrote the checkpoint. With another number of processes a global batch
        has another number of them; those of an unfinished step, whose gradients are gone, are due again; and between
        two epochs they may still be those of the finished one, which would end the next before it starts.
        """
        if self._resumed is None or self.trainer is None:
            return
        due, batches = self._resumed
        self._resumed = None
        if not self.trainer.fit_loop.restarting:  # Lightning then starts the epoch with fresh counters
            return
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        current = _counters(progress)
        # In a checkpoint from `on_train_batch_end` the last batch is not yet completed; Lightning adds it on restart.
        completing = current.processed - current.completed
        if epoch < due:  # all batches are done, Lightning goes back only to close the epoch
            done = int(self.trainer.num_training_batches)
        else:
            done = batches * self.accumulation
            progress.is_last_batch = False
        current.ready = current.started = current.processed = done
        current.completed = done - completing
