import dataclasses

import pytest

from data.config import DataConfig
from data.loading.stats import IMAGENET_MEAN, IMAGENET_STD, resolve_stats
from swinmim.errors import ConfigError

CONFIG = DataConfig(
    path="x", val_ratio=0.1, cache_dir=None, pack_resize=None, pack_quality=95, stats="auto", num_workers=0,
    max_bad_fraction=0.0,
)  # fmt: skip
LISTED = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_auto_takes_the_encoders_statistics_else_the_sets(shards):
    assert resolve_stats(CONFIG, shards) == (shards.mean, shards.std)
    assert resolve_stats(CONFIG, shards, LISTED) == LISTED


def test_listed_and_imagenet_statistics_are_taken_as_they_are(shards):
    listed = dataclasses.replace(CONFIG, stats=LISTED)
    assert resolve_stats(listed, shards, ((0.0,) * 3, (1.0,) * 3)) == LISTED
    assert resolve_stats(dataclasses.replace(CONFIG, stats="imagenet"), shards) == (IMAGENET_MEAN, IMAGENET_STD)


def test_statistics_of_other_channels_are_refused(shards):
    with pytest.raises(ConfigError, match=r"lists 1 channels, the set has 3\. List one mean"):
        resolve_stats(dataclasses.replace(CONFIG, stats=((0.5,), (0.5,))), shards)
    shards.channels = 5
    with pytest.raises(ConfigError, match="imagenet has 3 channels, the set has 5"):
        resolve_stats(dataclasses.replace(CONFIG, stats="imagenet"), shards)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5, 0.5), (0.5,), "one mean and one deviation for each channel"),
        ((), (), "one mean and one deviation for each channel"),
        ((0.5,), (0.0,), r"in 0\.\.1 units"),
        ((123.7,), (58.4,), r"in 0\.\.1 units.*divided by 255"),
        ((0.5,), (58.4,), r"in 0\.\.1 units"),
        ((-0.1,), (0.5,), r"in 0\.\.1 units"),
        ((float("nan"),), (0.5,), r"in 0\.\.1 units"),
        ((0.5,), (float("nan"),), r"in 0\.\.1 units"),
        ((0.5,), (float("inf"),), r"in 0\.\.1 units"),
    ],
)
def test_listed_statistics_are_checked(mean, std, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, stats=(mean, std))


def test_lanes_are_for_indexed_sets():
    assert dataclasses.replace(CONFIG, lanes=8).lanes == 8
    with pytest.raises(ValueError, match="at least 1, got 0"):
        dataclasses.replace(CONFIG, lanes=0)
    with pytest.raises(ValueError, match="no effect with streaming_samples"):
        dataclasses.replace(CONFIG, lanes=2, streaming_samples=9)
