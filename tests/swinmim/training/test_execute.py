"""The order of events of a run, which both commands share."""

import pytest
import torch
from torch import nn

from pretrain.config import PretrainConfig
from swinmim.composition import check
from swinmim.errors import ConfigError
from swinmim.models.architecture import get_architecture
from swinmim.models.swinv2 import SwinV2
from swinmim.training import execute as module_under_test
from swinmim.training import trainer as trainer_module
from swinmim.training.execute import execute

SMALL = (
    "experiment=demo",
    "output_dir=unused",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "logger=none",
    "seed=5",
)


class Source(list):
    fingerprint = "abc"


class Images:
    """A data module of 640 images."""

    num_train, num_val = 640, 0
    train = Source(range(700))


class Parts:
    """Writes down what it is asked for, and whether that was on the meta device."""

    command, monitor = "pretrain", ("val/recon_loss", "min")

    def __init__(self):
        self.events = []
        self.arguments = {}

    def note(self, name):
        self.events.append(name + (" on meta" if torch.empty(0).is_meta else ""))

    def accumulation(self):
        self.note("accumulation")
        return 1

    def shape(self):
        self.note("shape")
        return self.encoder()

    def encoder(self):
        return SwinV2(get_architecture("swinv2_demo", embed_dim=16, head_dim=8), resolution=32)

    def data(self, shape):
        self.note("data")
        self.seeded = torch.initial_seed()
        assert shape.norm.weight.is_meta
        return Images()

    def statistics(self, data):
        self.note("statistics")
        return (0.1, 0.2, 0.3), (1.0, 1.0, 1.0)

    def network(self, data):
        self.note("network")
        network = nn.Module()
        network.encoder = self.encoder()
        network.head = nn.Linear(1, 1)
        return network

    def module(self, network, plan, provenance, build):
        self.note("module")
        self.plan, self.provenance, self.build = plan, provenance, build
        return "module"

    def recipe(self):
        return {"method": "a method"}

    def derived(self, network, data):
        return {"own": 1}

    def callbacks(self, output_dir):
        return ["a callback"]

    def verdict(self, metrics, output_dir):
        self.note("verdict")
        return f"the loss is {metrics['loss']}"


@pytest.fixture
def parts(monkeypatch):
    parts = Parts()

    def train(config, module, data, **arguments):
        parts.note("train")
        parts.arguments = arguments
        assert (module, type(data)) == ("module", Images)
        return {"loss": 3.0}

    def check_world(trainer, strategy):
        parts.note("check_world")
        if strategy.kind != "deepspeed":  # which asks for a GPU
            trainer_module.check_world(trainer, strategy)

    def check_memory(count, *_):
        parts.note("check_memory" if count else "nothing counted")

    for replacement in (train, check_world, check_memory):
        monkeypatch.setattr(module_under_test, replacement.__name__, replacement)
    return parts


def start(parts, tmp_path, *overrides):
    return execute(parts, check("pretrain", PretrainConfig, [*SMALL, *overrides]), tmp_path)


def test_events_come_in_the_one_order(parts, tmp_path):
    assert start(parts, tmp_path) == {"loss": 3.0}
    assert parts.events == [
        *("check_world", "accumulation", "shape on meta", "check_memory", "data", "statistics", "network", "module"),
        *("train", "verdict"),
    ]
    assert parts.seeded == 5
    assert parts.build is None


def test_a_partitioned_network_is_built_without_memory_and_again_with_its_weights(parts, tmp_path):
    start(parts, tmp_path, "strategy=deepspeed_zero3")
    assert "network on meta" in parts.events
    assert "network" not in parts.events
    assert not parts.build().head.weight.is_meta
    assert parts.events[-1] == "network"


def test_what_follows_from_the_settings_is_the_same_for_every_kind_of_run(parts, tmp_path):
    start(parts, tmp_path, "global_batch_size=64", "trainer.max_epochs=3", "trainer.max_steps=-1")
    assert (parts.plan.steps_per_epoch, parts.plan.total_steps) == (10, 30)
    assert parts.provenance.mean == (0.1, 0.2, 0.3)
    assert parts.provenance.data == {"fingerprint": "abc", "samples": 700}
    assert parts.provenance.recipe["method"] == "a method"
    assert parts.provenance.recipe["max_epochs"] == 3
    derived = parts.arguments["derived"]
    assert (derived["images"], derived["own"], derived["total_steps"]) == (640, 1, 30)
    assert parts.arguments["callbacks"][0] == "a callback"
    assert parts.arguments["callbacks"][1].monitor == "val/recon_loss"


def test_a_world_that_cannot_be_is_refused_before_anything_is_built(parts, tmp_path):
    with pytest.raises(ConfigError, match="Add strategy=ddp"):
        start(parts, tmp_path, "trainer.devices=2")
    assert parts.events == ["check_world"]


@pytest.mark.parametrize(("windows", "told"), [([(24, 24), (7, 7)], ""), ([(12, 12), (48, 48)], "48x48 tokens: each")])
def test_a_wide_window_says_what_it_costs(caplog, windows, told):
    module_under_test.warn_of_windows(windows)
    assert told in caplog.text
    assert bool(told) == bool(caplog.records)
    if told:
        assert "4.0 times the time and memory of a 24x24 window (20 MiB a head and window" in caplog.text
