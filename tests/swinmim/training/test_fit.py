"""What fits a set: batches and lengths, and the way out where they do not."""

import dataclasses
import itertools
import re
import shlex

import pytest

from data.order.epoch import accumulation
from pretrain.config import PretrainConfig
from swinmim import door
from swinmim.composition import check
from swinmim.errors import ConfigError
from swinmim.training.fit import make_plan, smaller_batch


@pytest.fixture
def recipe(monkeypatch):
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")
    return check("pretrain", PretrainConfig, ["experiment=swinv2_t_mim", "data.path=x", "strategy=ddp"])


def test_the_way_out_of_a_large_batch_fits(recipe):
    sizes = itertools.product((1, 2, 7, 30, 980, 2047), (1, 2, 3, 8), (1, 24, 256, 4096), (1, 2, 48))
    for images, world, batch, lanes in sizes:
        trainer = dataclasses.replace(recipe.trainer, devices=world, num_nodes=1, max_epochs=2)
        config = dataclasses.replace(recipe, trainer=trainer, batch_size=batch)
        way = smaller_batch(config, images, lanes)
        if images < world:
            assert way == f"Each of {world} processes needs at least one: take at most {images}."
            continue
        values = dict(one.split("=") for one in shlex.split(re.fullmatch(r"Add (.*)\.", way)[1]))
        whole, own = int(values.pop("global_batch_size")), int(values.pop("batch_size", batch))
        assert images / 2 < whole <= images
        assert own <= batch
        assert whole % int(values.pop("data.lanes", lanes)) == 0
        assert accumulation(whole, world, own) >= 1
        assert values == {}  # shares fit
        plan = make_plan(dataclasses.replace(config, global_batch_size=whole), accumulation=1, num_samples=images)
        assert plan.total_steps == 2 * (images // whole)


def test_the_way_out_is_one_that_the_set_gives(recipe):
    """Half of each batch comes from a part of nine images; a lane takes as much of each."""
    trainer = dataclasses.replace(recipe.trainer, devices=2, num_nodes=1)
    config = dataclasses.replace(recipe, trainer=trainer, batch_size=24)

    def fits(batch, lanes):
        return batch // 2 <= 9 and batch // lanes > 1

    assert smaller_batch(config, 980, 4, fits) == "Add global_batch_size=12 batch_size=6."
    assert smaller_batch(config, 980, 4, lambda batch, lanes: False) == ""


def test_lengths_that_were_typed_are_part_of_the_way_out(recipe):
    schedule = dataclasses.replace(recipe.schedule, warmup_steps=3000, milestones=(700.0,))
    trainer = dataclasses.replace(recipe.trainer, max_epochs=5)
    config = dataclasses.replace(recipe, schedule=schedule, trainer=trainer)
    assert smaller_batch(config, 980, 1) == (
        "Add global_batch_size=768 schedule.warmup_steps=null 'schedule.milestones=[]'."
    )
    fitting = dataclasses.replace(config, global_batch_size=768)
    with pytest.raises(ConfigError, match=r"warm-up \(3000 steps\).* and schedule\.milestones \[700\.0\] lie beyond"):
        make_plan(fitting, accumulation=3, num_samples=980)
