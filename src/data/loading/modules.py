"""The data of the two commands: images for pretraining, indexed or streamed, and labelled images for classification."""

import logging
from typing import Any, cast

import numpy as np

from data.codecs.decode import Decoder
from data.config import DataConfig
from data.loading.module import ShardData
from data.loading.stream import StreamDataset, StreamLoader
from data.loading.views import Augment, ClassifyAugment, RandomCrop
from data.order.hashing import Ints, key
from data.order.subsets import split
from data.shards.set import BatchOrder, SampleSet, require_labels
from data.shards.streamed import StreamSet
from swinmim.errors import ConfigError, DataError

log = logging.getLogger(__name__)


class PretrainData(ShardData):
    """Images for masked image modelling. `train_dataloader` gives `ImageBatch`es (with label and valid beside).

    Args:
        train: the shard set.
        train_indices, val_indices: its split (`order.split`); None for all, and for none held out.
        resolution: (height, width).
        seed: of order and augmentation.
        global_batch: samples per optimizer step over all processes.
        batch_size: samples per process and forward pass.
        num_workers: loader processes per rank; does not change the batches.
        scale, ratio: of the random resized crop.
        eval_batch_size: defaults to `batch_size`.
        max_bad_fraction: share of an epoch that may be undecodable; 4 images per process are always tolerated.
        decoder: see `decode.Decoder`.
        lanes, block: see `order.EpochOrder`.

    Raises:
        DataError: the global batch is larger than the set.
    """

    def __init__(
        self,
        train: SampleSet,
        train_indices: Ints | None = None,
        val_indices: Ints | None = None,
        *,
        resolution: tuple[int, int],
        seed: int,
        global_batch: int,
        batch_size: int,
        num_workers: int = 0,
        scale: tuple[float, float] = (0.67, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        eval_batch_size: int | None = None,
        crop_ratio: float = 1.0,
        max_bad_fraction: float = 1e-3,
        lanes: int = 1,
        block: int = 8,
        decoder: Decoder = "turbo",
    ) -> None:
        super().__init__(
            train,
            train_indices,
            train,
            np.empty(0, np.int64) if val_indices is None else val_indices,
            resolution=resolution,
            seed=seed,
            global_batch=global_batch,
            batch_size=batch_size,
            num_workers=num_workers,
            eval_batch_size=eval_batch_size,
            crop_ratio=crop_ratio,
            max_bad_fraction=max_bad_fraction,
            lanes=lanes,
            block=block,
            decoder=decoder,
        )
        self.scale, self.ratio = scale, ratio

    def _train_augment(self) -> Augment:
        return RandomCrop(self.resolution, self.scale, self.ratio)


class StreamData(PretrainData):
    """Images of tars without an index. Arguments as for `PretrainData`, with a `StreamSet` and no indices.

    A resumed run goes on with other images: streams have no position.
    """

    train: StreamSet  # type: ignore[assignment]

    def _order(self) -> BatchOrder:
        return cast(BatchOrder, None)

    def train_dataloader(self) -> StreamLoader:  # type: ignore[override]
        self._leave_closed_epochs()
        step = self.trainer.global_step if self.trainer else 0
        dataset = StreamDataset(
            self.train.urls,
            self._train_augment(),
            self.resolution,
            self.train.channels,
            self.batch_size,
            key("start", self.seed, step) >> 1,
            rank=self.rank,
            world=self.world,
            decoder=self.decoder,
            allow_insecure=self.train.allow_insecure,
        )
        return StreamLoader(dataset, self.steps_per_epoch * self.accumulation, self.num_workers, self.max_bad_fraction)

    def state_dict(self) -> dict[str, Any]:
        return {"version": 1, "streaming": True}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        log.warning("data.streaming=true: the run goes on with newly drawn images; this resume is not exact")


def pretrain_data(config: DataConfig, shards: SampleSet | StreamSet, **settings: Any) -> PretrainData:
    """The data module of a pretraining run.

    Args:
        config: what to hold out, how to read.
        shards: what `open_data` returned for it.
        settings: resolution, seed, global_batch, batch_size, scale and ratio, as for `PretrainData`.
    """
    settings |= {
        "num_workers": config.num_workers,
        "max_bad_fraction": config.max_bad_fraction,
        "decoder": config.decoder,
        "lanes": config.lanes,
    }
    if shards.streams:
        return StreamData(cast(Any, shards), None, None, **settings)
    return PretrainData(shards, *split(len(shards), config.val_ratio, seed=0), **settings)


class ClassifyData(ShardData):
    """Labelled images for classification; every batch is a `LabelledBatch`.

    Args:
        train, train_indices: training set and the part of it to use; None for all.
        val, val_indices: validation set and part; the set may be the same one.
        augment: training augmentation; None for `ClassifyAugment(resolution)`.
        crop_ratio: the centre crop's share of the resized image.
        Others as in `PretrainData`.

    Raises:
        DataError: a set has no labels, the classes differ, or the global batch is larger than the set.
    """

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
        num_workers: int = 0,
        augment: Augment | None = None,
        eval_batch_size: int | None = None,
        crop_ratio: float = 0.875,
        max_bad_fraction: float = 1e-3,
        lanes: int = 1,
        block: int = 8,
        decoder: Decoder = "turbo",
    ) -> None:
        if require_labels(train).classes != require_labels(val).classes:
            raise DataError(f"Training and validation must have the same classes; {train.path} and {val.path} differ.")
        super().__init__(
            train,
            train_indices,
            val,
            val_indices,
            resolution=resolution,
            seed=seed,
            global_batch=global_batch,
            batch_size=batch_size,
            num_workers=num_workers,
            eval_batch_size=eval_batch_size,
            crop_ratio=crop_ratio,
            max_bad_fraction=max_bad_fraction,
            lanes=lanes,
            block=block,
            decoder=decoder,
        )
        self.augment = augment or ClassifyAugment(resolution)
        plain = train.channels in (1, 3) and train.bits == 8
        if isinstance(self.augment, ClassifyAugment) and self.augment.rand_augment and not plain:
            raise ConfigError(
                f"RandAugment knows 1 or 3 channels of 8 bits, got {train.channels} of {train.bits}."
                " Add task.randaug_ops=0 task.randaug_magnitude=0."
            )

    @property
    def classes(self) -> tuple[str, ...]:
        return self.train.classes

    def _train_augment(self) -> Augment:
        return self.augment
