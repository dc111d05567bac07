import math

import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

import swinmim
from swinmim.errors import ConfigError
from swinmim.optim.build import build_optimizer
from swinmim.optim.schedules import ScheduleConfig, lr_factor, misfits, peak_lr, warmup_steps
from swinmim.optim.settings import OptimConfig


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


def published_rates(peak, step, *, kind, start, floor, warm, total, milestones):
    """microsoft/Swin-Transformer lr_scheduler.py over timm 0.4.12, in words: a line from start up to the peak, then
    half a cosine down to the floor, or a tenth at each milestone passed. Start and floor are rates, no shares.
    """
    if step < warm:
        return start + step * (peak - start) / warm
    if kind == "cosine":
        return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
    rate = peak
    for milestone in milestones:
        if milestone <= step:
            rate = rate * 0.1
    return rate


@pytest.mark.parametrize("kind", ["cosine", "multistep"])
@pytest.mark.parametrize(("depths", "layer_decay"), [((2, 2, 18, 2), 0.75), ((2, 2, 18, 2), 0.7), ((2, 2, 6, 2), 1.0)])
def test_rate_of_each_group_at_each_step_is_the_published_one(kind, depths, layer_decay):
    with torch.device("meta"):
        encoder = swinmim.create_encoder("swinv2_t", resolution=32, embed_dim=32, head_dim=16, depths=depths)
        model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(encoder.num_features, 10)})
    base_lr, warm, total = 1.25e-3, 20, 100
    if kind == "cosine":
        schedule = ScheduleConfig(kind="cosine", warmup_epochs=2, warmup_lr=2.5e-7, min_lr=2.5e-7)
    else:
        schedule = ScheduleConfig(kind="multistep", warmup_epochs=2, warmup_lr=2.5e-7, milestones=(6, 8))
    optimizer, scheduler = build_optimizer(
        model,
        OptimConfig(base_lr=base_lr, layer_decay=layer_decay),
        schedule,
        depths=depths,
        rules=("bias", "norm"),
        global_batch_size=2048,
        total_steps=total,
        steps_per_epoch=10,
    )
    groups = optimizer.param_groups
    assert len(groups) == (2 if layer_decay == 1.0 else 2 * (sum(depths) + 2))
    milestones = [60, 80]
    low = {"start": 1e-6, "floor": 1e-6}  # for 2048 images
    for step in range(total + 1):
        for group in groups:
            depth = sum(depths) + 1 if layer_decay == 1.0 else int(group["name"].split("_")[1])
            peak = 5e-3 * layer_decay ** (sum(depths) + 1 - depth)
            expected = published_rates(peak, step, kind=kind, **low, warm=warm, total=total, milestones=milestones)
            assert group["lr"] == pytest.approx(expected, rel=1e-12), (step, group["name"])
        # what the module logs as train/lr is the group of the peak
        top = published_rates(5e-3, step, kind=kind, **low, warm=warm, total=total, milestones=milestones)
        assert scheduler.get_last_lr()[-1] == pytest.approx(top, rel=1e-12)
        assert max(scheduler.get_last_lr()) == pytest.approx(top, rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_rates_of_groups_equal_timm():
    """timm's scheduler, for groups that it does not scale itself (lr_scale, newer than the version that Swin names)."""
    peaks = [5e-3 * 0.7**n for n in range(26)]  # SwinV2-L: the lowest lies below the floor
    assert min(peaks) < 1e-6
    reference = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": peak} for peak in peaks])
    scheduler = CosineLRScheduler(
        reference, t_initial=80, lr_min=1e-6, warmup_t=20, warmup_lr_init=1e-6, warmup_prefix=True, t_in_epochs=False
    )
    config = ScheduleConfig(kind="cosine", warmup_epochs=2, warmup_lr=2.5e-7, min_lr=2.5e-7)
    factors = [lr_factor(config, base_lr=peak / 4, total_steps=100, steps_per_epoch=10) for peak in peaks]
    for step in range(100):
        scheduler.step_update(step)
        expected = [group["lr"] for group in reference.param_groups]
        found = [peak * factor(step) for peak, factor in zip(peaks, factors, strict=True)]
        assert found == pytest.approx(expected, rel=1e-9)


def test_end_of_cosine_is_the_floor():
    factor = lr_factor(
        ScheduleConfig(kind="cosine", warmup_steps=0, min_lr=1e-6), base_lr=1e-3, total_steps=50, steps_per_epoch=50
    )
    assert factor(0) == 1.0
    assert factor(50) == pytest.approx(1e-3)
    assert math.isfinite(factor(51))


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="at most one of warmup_epochs and warmup_steps"):
        ScheduleConfig(kind="cosine", warmup_epochs=1, warmup_steps=1)
    with pytest.raises(ValueError, match=r"milestones have no effect with kind=cosine"):
        ScheduleConfig(kind="cosine", warmup_epochs=1, milestones=(3,))
    with pytest.raises(ValueError, match=r"milestones have no effect with kind=cosine"):
        ScheduleConfig(kind="cosine", milestone_shares=(0.5,))
    with pytest.raises(ValueError, match=r"kind=multistep needs milestones"):
        ScheduleConfig(kind="multistep")
    for wrong in ({"warmup_share": 1.0}, {"warmup_share": -0.1}, {"warmup_epochs": -1}, {"warmup_steps": -1}):
        with pytest.raises(ValueError, match=r"warmup_share lies in \[0, 1\)"):
            ScheduleConfig(kind="cosine", **wrong)
    for wrong in ({"milestone_shares": (700,)}, {"milestone_shares": (0.0,)}, {"milestones": (-1,)}):
        with pytest.raises(ValueError, match=r"milestone_shares lie between 0 and 1, milestones \(epochs\) above 0"):
            ScheduleConfig(kind="multistep", **wrong)
    for wrong in ({"warmup_lr": -1e-6}, {"min_lr": -1e-6}, {"gamma": 0.0}, {"gamma": 1.5}):
        with pytest.raises(ValueError, match=r"warmup_lr and min_lr are not negative, and gamma lies in \(0, 1\]"):
            ScheduleConfig(kind="cosine", **wrong)


def test_shares_are_the_same_place_of_any_run():
    shares = ScheduleConfig(kind="multistep", warmup_share=0.0125, milestone_shares=(0.875,), warmup_lr=5e-7)
    typed = ScheduleConfig(kind="multistep", warmup_epochs=10, milestones=(700,), warmup_lr=5e-7)
    for per_epoch in (1, 3, 613, 625):  # of 800 epochs
        run = {"base_lr": 1e-4, "total_steps": 800 * per_epoch, "steps_per_epoch": per_epoch}
        found, expected = lr_factor(shares, **run), lr_factor(typed, **run)
        for step in (0, 1, 10 * per_epoch - 1, 10 * per_epoch, 700 * per_epoch - 1, 700 * per_epoch, 800 * per_epoch):
            assert found(step) == expected(step)


@pytest.mark.parametrize("kind", ["cosine", "multistep"])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 80])
def test_shares_fit_a_run_of_any_length(kind, total):
    shares = {"milestone_shares": (0.5, 0.875)} if kind == "multistep" else {}
    config = ScheduleConfig(kind=kind, warmup_share=0.6, **shares)
    factor = lr_factor(config, base_lr=1e-3, total_steps=total, steps_per_epoch=total)
    warm = warmup_steps(config, total, total)
    assert warm == min(round(0.6 * total), total - 1)
    assert factor(warm) > 0
    assert all(0 <= factor(step) <= 1 for step in range(total + 1))


def test_what_was_typed_goes_before_the_share():
    assert warmup_steps(ScheduleConfig(kind="cosine", warmup_share=0.1), 1000, 10) == 100
    assert warmup_steps(ScheduleConfig(kind="cosine", warmup_share=0.1, warmup_epochs=3), 1000, 10) == 30
    assert warmup_steps(ScheduleConfig(kind="cosine", warmup_share=0.1, warmup_steps=7), 1000, 10) == 7
    assert warmup_steps(ScheduleConfig(kind="cosine", warmup_share=0.1, warmup_epochs=0), 1000, 10) == 0
    both = ScheduleConfig(kind="multistep", milestone_shares=(0.5,), milestones=(20,))
    factor = lr_factor(both, base_lr=1.0, total_steps=1000, steps_per_epoch=10)
    assert (factor(199), factor(200), factor(500)) == (1.0, 0.1, 0.1)


def test_lengths_that_do_not_fit_come_together_with_one_line_that_fits():
    config = ScheduleConfig(kind="multistep", warmup_share=0.1, warmup_epochs=10, milestones=(3, 700))
    with pytest.raises(ConfigError) as caught:
        lr_factor(config, base_lr=1e-3, total_steps=50, steps_per_epoch=10)
    assert str(caught.value) == (
        "the warm-up (100 steps) must be shorter than the run and schedule.milestones [3, 700] lie beyond the run of 50"
        " steps (5 epochs). Train longer (trainer.max_epochs), or add schedule.warmup_epochs=null"
        " 'schedule.milestones=[]' 'schedule.milestone_shares=[0.9]'."
    )
    mended = ScheduleConfig(kind="multistep", warmup_share=0.1, milestone_shares=(0.9,))
    assert misfits(mended, 50, 10) == []
    steps = ScheduleConfig(kind="cosine", warmup_steps=50)
    assert misfits(steps, 50, 10)[0][1] == "schedule.warmup_steps=null"
    assert misfits(steps, 51, 10) == []
