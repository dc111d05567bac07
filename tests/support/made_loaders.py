"""Loaders of small images, as pretraining has them."""

import numpy as np

from data.loading.batch import LoaderSettings
from data.loading.module import Part, ShardData, StreamData
from data.loading.views import CenterCrop, RandomCrop

SMALL = {"resolution": (16, 16), "seed": 0, "global_batch": 8, "batch_size": 8}


def shard_data(shards, train=None, val=None, *, train_view=None, eval_view=None, val_shards=None, **changed):
    """All of a set, or some of it, in batches of 8; nothing is held out unless `val` says so."""
    settings = LoaderSettings(**SMALL | changed)
    return ShardData(
        Part(shards, train),
        Part(val_shards or shards, np.empty(0, np.int64) if val is None else val),
        train_view or RandomCrop(settings.resolution),
        eval_view or CenterCrop(settings.resolution, 1.0),
        settings,
    )


def stream_data(shards, **changed):
    settings = LoaderSettings(**SMALL | changed)
    return StreamData(shards, RandomCrop(settings.resolution), settings)
