import dataclasses

import pytest

from data.config import DataConfig
from data.stats import IMAGENET_MEAN, IMAGENET_STD, resolve_stats
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
    with pytest.raises(ConfigError, match="lists 1 channels, the set has 3"):
        resolve_stats(dataclasses.replace(CONFIG, stats=((0.5,), (0.5,))), shards)
    shards.channels = 5
    with pytest.raises(ConfigError, match="imagenet has 3 channels, the set has 5"):
        resolve_stats(dataclasses.replace(CONFIG, stats="imagenet"), shards)
    for stats in (((0.5, 0.5), (0.5,)), ((0.5,), (0.0,))):
        with pytest.raises(ValueError, match="as many means as deviations"):
            dataclasses.replace(CONFIG, stats=stats)
