import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from swinmim.errors import ConfigError
from swinmim.optim.build import OptimConfig, build_optimizer
from swinmim.optim.schedules import ScheduleConfig, lr_factor, peak_lr


def timm_rates(scheduler, optimizer, steps):
    rates = []
    for step in range(steps):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def test_scaling_rule():
    assert peak_lr(1e-4, 2048) == pytest.approx(4e-4)
    assert peak_lr(7.7777777778e-5, 9216) == pytest.approx(1.4e-3)


def test_cosine_equals_timm():
    config = ScheduleConfig(kind="cosine", warmup_epochs=2, warmup_lr=1e-5, min_lr=2e-5)
    factor = lr_factor(config, base_lr=1e-3, total_steps=100, steps_per_epoch=10)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1e-3)
    reference = CosineLRScheduler(
        optimizer,
        t_initial=80,
        lr_min=2e-5,
        warmup_t=20,
        warmup_lr_init=1e-5,
        warmup_prefix=True,
        t_in_epochs=False,
        cycle_limit=1,
    )
    expected = timm_rates(reference, optimizer, 100)
    assert [factor(step) * 1e-3 for step in range(100)] == pytest.approx(expected, rel=1e-6)


def test_multistep_equals_torch_after_a_linear_warm_up():
    config = ScheduleConfig(kind="multistep", warmup_steps=5, warmup_lr=1e-6, milestones=(7, 9))
    factor = lr_factor(config, base_lr=1e-3, total_steps=100, steps_per_epoch=10)
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1e-3)
    reference = torch.optim.lr_scheduler.MultiStepLR(optimizer, [70, 90], gamma=0.1)
    for step in range(100):
        expected = reference.get_last_lr()[0] if step >= 5 else 1e-6 + (1e-3 - 1e-6) * step / 5
        assert factor(step) * 1e-3 == pytest.approx(expected, rel=1e-6)
        optimizer.step()
        reference.step()


def test_schedule_reaches_each_group_with_its_scale():
    model = nn.ModuleDict({"norm": nn.LayerNorm(2), "head": nn.Linear(2, 2)})
    optimizer, scheduler = build_optimizer(
        model,
        OptimConfig(base_lr=1e-3, layer_decay=0.5),
        ScheduleConfig(kind="cosine", warmup_steps=2),
        depths=(1,),
        rules=("bias", "norm"),
        global_batch_size=512,
        total_steps=10,
        steps_per_epoch=10,
    )
    assert [group["lr"] for group in optimizer.param_groups] == [0.0] * len(optimizer.param_groups)
    optimizer.step()
    scheduler.step()
    assert scheduler.get_last_lr()[-1] == pytest.approx(5e-4)


def test_end_of_cosine_is_the_floor():
    factor = lr_factor(
        ScheduleConfig(kind="cosine", warmup_steps=0, min_lr=1e-6), base_lr=1e-3, total_steps=50, steps_per_epoch=50
    )
    assert factor(0) == 1.0
    assert factor(50) == pytest.approx(1e-3)
    assert math.isfinite(factor(51))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="exactly one of warmup_epochs and warmup_steps"):
        ScheduleConfig(kind="cosine", warmup_epochs=1, warmup_steps=1)
    with pytest.raises(ValueError, match=r"milestones have no effect with kind=cosine"):
        ScheduleConfig(kind="cosine", warmup_epochs=1, milestones=(3,))
    with pytest.raises(ConfigError, match=r"warm-up \(100 steps\) must be shorter than the run \(50 steps"):
        lr_factor(ScheduleConfig(kind="cosine", warmup_epochs=10), base_lr=1e-3, total_steps=50, steps_per_epoch=10)
    with pytest.raises(ConfigError, match=r"milestones .* lie beyond the run of 5 epochs"):
        lr_factor(
            ScheduleConfig(kind="multistep", warmup_epochs=1, milestones=(700,)),
            base_lr=1e-3,
            total_steps=50,
            steps_per_epoch=10,
        )
