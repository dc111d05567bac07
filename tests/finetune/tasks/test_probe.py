"""Probes: the rate is chosen where the report does not look, and what does not fit is refused."""

import dataclasses

import numpy as np
import pytest
import torch
import yaml
from made_tasks import made_encoder

from data.order.subsets import split
from finetune.frozen import Effort
from finetune.tasks.probe import Probe, ProbeConfig
from swinmim.config import CONF_DIR
from swinmim.errors import ConfigError, DataError
from swinmim.evaluation.features import Features

EFFORT = Effort(epochs=10, batch_size=32, seed=0, device=torch.device("cpu"))

SMALL = {"queries": 4, "held_out": 0.25, "rates": (1e-3, 1e-2)}


def made(**changed):
    settings = yaml.safe_load((CONF_DIR / "task" / "probe.yaml").read_text()) | SMALL | changed
    settings |= {key: tuple(value) for key, value in settings.items() if isinstance(value, list)}
    return Probe(ProbeConfig(**settings), made_encoder(), 2)


def made_features(count, seed, rule=lambda labels: labels):
    """Two stages of tokens, one of which tells the class of `rule`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    maps = {}
    for stage, (tokens, channels) in enumerate(((16, 16), (4, 32)), 1):
        maps[stage] = torch.randn(count, tokens, channels, generator=generator)
        maps[stage][:, 1, 0] += 4 * rule(labels)
    pooled = {stage: tokens.mean(1) for stage, tokens in maps.items()}
    return Features(pooled, {stage: tokens.half() for stage, tokens in maps.items()}, labels)


def test_a_line_for_each_stage_and_head():
    measured = made().measure(made_features(200, 0), made_features(100, 1), EFFORT)
    assert [(one.stage, one.head) for one in measured] == [
        (1, "linear"), (1, "attentive"), (2, "linear"), (2, "attentive")
    ]  # fmt: skip
    assert all(one.chosen["rate"] in made().settings.rates for one in measured)
    assert max(one.top1 for one in measured) > 0.8
    for one in made(stages=(2,), heads=("linear",)).measure(made_features(60, 0), made_features(50, 1), EFFORT):
        assert (one.stage, one.head) == (2, "linear")


def test_the_reported_set_chooses_nothing():
    """With its labels turned around, the same rates are chosen, and every answer that was right is wrong."""
    train, val = made_features(200, 0), made_features(100, 1)
    turned = dataclasses.replace(val, labels=1 - val.labels)
    for one, other in zip(made().measure(train, val, EFFORT), made().measure(train, turned, EFFORT), strict=True):
        assert one.chosen == other.chosen
        assert one.top1 == pytest.approx(1 - other.top1)


def test_the_held_out_part_chooses_and_trains_nothing():
    """Where it says the opposite of the rest, the rate that learns least of the rest looks best."""
    train = made_features(200, 0)
    learn, choose = split(200, 0.25, seed=0)
    assert len(choose) == 50
    turned = train.labels.clone()
    turned[choose] = 1 - turned[choose]
    probe = made(heads=("linear",), stages=(1,), rates=(1e-6, 1e-2))
    honest, misled = (
        probe.measure(dataclasses.replace(train, labels=labels), made_features(100, 1), EFFORT)[0]
        for labels in (train.labels, turned)
    )
    assert honest.chosen["rate"] == 1e-2
    assert misled.chosen["rate"] == 1e-6
    assert not np.intersect1d(learn, choose).size


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"queries": 5},
            r"task\.queries must divide the 16 channels of stage 1, got 5\. Add task\.queries=4, or task\.he",
        ),
        ({"queries": 32}, r"task\.queries must divide the 16 channels of stage 1, got 32\. Add task\.queries=16"),
        ({"stages": (2, 3)}, r"task\.stages counts the stages of the encoder from 1; it has 2, got \[2, 3\]"),
    ],
)
def test_what_does_not_fit_the_encoder_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        made(**changed)


def test_queries_matter_to_attentive_heads_alone():
    assert made(queries=5, heads=("linear",)).stages == (1, 2)
    assert made(queries=32, stages=(2,)).stages == (2,)


def test_too_few_images_are_refused():
    with pytest.raises(DataError, match=r"held_out=0\.1 of 3 training images leaves 3 .*holds out 0 .*Give more"):
        made(held_out=0.1).measure(made_features(3, 0), made_features(4, 1), EFFORT)
    with pytest.raises(DataError, match="leaves 1 to learn from and holds out 1"):
        made(held_out=0.5).measure(made_features(2, 0), made_features(4, 1), EFFORT)
    assert made(held_out=0.4).measure(made_features(3, 0), made_features(4, 1), EFFORT)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": ()}, "heads names linear, attentive or both"),
        ({"heads": ("linear", "linear")}, "heads names linear, attentive or both"),
        ({"rates": (1e-3, 1e-3)}, "rates names each rate once"),
        ({"stages": ()}, "stages names each stage once, or is null"),
        ({"stages": (1, 1)}, "stages names each stage once, or is null"),
        ({"crop_ratio": 0.0}, r"crop_ratio must lie in \(0, 1\]"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        made(**changed)


def test_a_reader_is_told_of_the_yardstick_and_of_a_grid_that_is_too_narrow():
    probe = made(rates=(1e-6, 1e-5))
    told = probe.remarks(probe.measure(made_features(60, 0), made_features(50, 1), EFFORT))
    assert "yardstick is fine-tuning" in told[0]
    assert "kNN 8.6, linear 47.1 and attentive 64.9" in told[0]
    assert "end of task.rates" in told[1]
    assert "linear, stage 1" in told[1]
