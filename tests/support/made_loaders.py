"""Loaders of small images, as pretraining has them."""

from typing import Any

import numpy as np

from data.loading.batch import LoaderSettings
from data.loading.module import Part, ShardData, StreamData
from data.loading.views import CenterCrop, RandomCrop, View
from data.order.hashing import Ints
from data.shards.set import SampleSet
from data.shards.streamed import StreamSet

SMALL: dict[str, Any] = {"resolution": (16, 16), "seed": 0, "global_batch": 8, "batch_size": 8}


def shard_data(
    shards: SampleSet,
    train: Ints | None = None,
    val: Ints | None = None,
    *,
    train_view: View | None = None,
    eval_view: View | None = None,
    val_shards: SampleSet | None = None,
    **changed: Any,
) -> ShardData:
    """All of a set, or some of it, in batches of 8; nothing is held out unless `val` says so."""
    settings = LoaderSettings(**SMALL | changed)
    return ShardData(
        Part(shards, train),
        Part(val_shards or shards, np.empty(0, np.int64) if val is None else val),
        train_view or RandomCrop(settings.resolution),
        eval_view or CenterCrop(settings.resolution, 1.0),
        settings,
    )


def stream_data(shards: StreamSet, **changed: Any) -> StreamData:
    settings = LoaderSettings(**SMALL | changed)
    return StreamData(shards, RandomCrop(settings.resolution), settings)
