"""Damaged validation images: no other image counts in their place, on any number of ranks."""

import copy

import numpy as np
import pytest
import torch
from made_tasks import PLAN, PROVENANCE, made_encoder, made_module, made_task

from data.loading.batch import LoaderSettings
from data.loading.dataset import BatchDataset
from data.loading.sampler import EvalSampler
from data.loading.views import CenterCrop
from finetune.module import TaskModule
from pretrain.config import PretrainConfig
from pretrain.module import PretrainModule
from pretrain.simmim import SimMIM
from swinmim.composition import check

SETTINGS = LoaderSettings(resolution=(32, 32), seed=0, global_batch=4, batch_size=4)
DAMAGED = (0, 3, 10)  # the first also fills up the last batch


class Logged:
    """What a module logs is summed, as its arguments ask for; there is no trainer."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.logged = {}

    def log(self, name, value, *, reduce_fx, sync_dist, on_epoch, on_step):
        assert (reduce_fx, sync_dist, on_epoch, on_step) == ("sum", True, True, False)
        self.logged[name] = self.logged.get(name, 0) + float(value)


class LoggedPretraining(Logged, PretrainModule):
    pass


class LoggedTask(Logged, TaskModule):
    pass


def pretraining():
    config = check("pretrain", PretrainConfig, ["experiment=demo", "output_dir=x"])
    return LoggedPretraining(SimMIM(made_encoder(), mask_unit=16), config, PLAN, PROVENANCE)


def classification():
    return made_module(made_task("classify"), LoggedTask)


def validate(module, shards, indices, world, size=4):
    """Every rank's metric states, added up as torchmetrics does it over ranks; and the damaged images counted."""
    states, count = {}, 0
    for rank in range(world):
        own = copy.deepcopy(module).eval()
        dataset = BatchDataset(shards, indices, CenterCrop((32, 32), 1.0), SETTINGS, "eval")
        for places in EvalSampler(indices, size, rank=rank, world=world):
            batch = dataset.__getitems__(places)
            batch["seed"] = torch.tensor([place.sample for place in places])  # masks that do not depend on the position
            with torch.no_grad():
                own.validation_step(batch, 0)
        count += own.logged["health/skipped_val_samples"]
        for name, metric in own.metrics.items():
            for state, value in metric.metric_state.items():
                states[name, state] = states.get((name, state), 0) + value
    return states, count


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("make", [pretraining, classification])
@pytest.mark.slow
def test_a_damaged_validation_image_is_left_out_and_counted(damaged, make, world):
    torch.manual_seed(0)
    module, shards = make(), damaged(DAMAGED)
    whole = np.arange(15)
    expected, none = validate(module, shards, np.setdiff1d(whole, DAMAGED), 1)
    found, count = validate(module, shards, whole, world)
    assert (none, count) == (0, len(DAMAGED))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, msg=str(name))


def test_a_batch_of_nothing_but_damage(damaged):
    module, shards = classification().eval(), damaged(range(4))
    dataset = BatchDataset(shards, np.arange(12), CenterCrop((32, 32), 1.0), SETTINGS, "eval")
    batch = dataset.__getitems__(next(iter(EvalSampler(np.arange(12), 4))))
    assert not batch["valid"].any()
    module.validation_step(batch, 0)
    assert module.logged["health/skipped_val_samples"] == 4


@pytest.mark.parametrize("make", [pretraining, classification])
def test_skipped_training_images_are_logged(monkeypatch, make):
    module = make()
    monkeypatch.setattr(module, "training_loss", lambda *_: torch.zeros((), requires_grad=True))
    monkeypatch.setattr(module, "log_training", lambda *_: None)
    module.training_step({"substituted": torch.tensor([True, False, True])}, 0)
    assert module.logged == {"health/skipped_samples": 2}
