import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from swinmim.errors import ConfigError
from swinmim.optim.schedules import ScheduleConfig
from swinmim.optim.settings import OptimConfig
from swinmim.training.callbacks.randomness import seed_all, step_seed
from swinmim.training.fit import make_plan
from swinmim.training.settings import LoggerConfig, StrategyConfig, TrainerConfig
from swinmim.training.trainer import check_world, resolve_precision


def test_step_seeds_differ_in_each_argument():
    seeds = {step_seed(seed, batch, rank) for seed in range(5) for batch in range(50) for rank in range(4)}
    assert len(seeds) == 1000
    assert min(seeds) >= 0
    assert max(seeds) < 2**32  # numpy takes no others


def test_a_seed_sets_every_generator():
    def draw():
        seed_all(step_seed(0, 3, 1))
        return random.random(), np.random.random(), torch.rand(()).item()

    assert draw() == draw()
    assert step_seed(0, 3, 1) == 2_320_408_515  # a resumed run of another version draws the same


def test_steps_of_a_run():
    config = SimpleNamespace(
        trainer=TrainerConfig(max_epochs=3),
        schedule=ScheduleConfig(kind="cosine", warmup_epochs=0),
        optim=OptimConfig(base_lr=1e-4),
        global_batch_size=64,
    )
    plan = make_plan(config, accumulation=2, num_samples=1000)
    assert (plan.steps_per_epoch, plan.total_steps) == (15, 45)
    config.trainer = TrainerConfig(max_epochs=3, max_steps=20)
    assert make_plan(config, accumulation=1, num_samples=1000).total_steps == 20


def test_trainer_settings_that_cannot_work():
    with pytest.raises(ConfigError, match="Add strategy=ddp"):
        check_world(TrainerConfig(max_epochs=1, devices=2), StrategyConfig(kind="single"))
    check_world(TrainerConfig(max_epochs=1, devices=2), StrategyConfig(kind="ddp"))
    with pytest.raises(ValueError, match="belong to logger=wandb"):
        LoggerConfig(kind="wandb")
    with pytest.raises(ValueError, match=r"max_steps must be positive"):
        TrainerConfig(max_epochs=1, max_steps=0)


@pytest.mark.parametrize("has_bf16", [False, True])
def test_precision_is_explicit_or_follows_the_hardware(monkeypatch, has_bf16):
    monkeypatch.setattr("swinmim.private.cpu_has_bf16", lambda: has_bf16)
    for precision in ("32-true", "bf16-mixed"):
        assert resolve_precision(TrainerConfig(max_epochs=1, accelerator="cpu", precision=precision)) == precision
    automatic = resolve_precision(TrainerConfig(max_epochs=1, accelerator="cpu"))
    assert automatic == ("bf16-mixed" if has_bf16 else "32-true")
