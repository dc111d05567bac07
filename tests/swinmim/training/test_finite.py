import copy

import pytest
import torch
from no_sync import NoSync
from torch import nn
from torch.optim import AdamW

from swinmim.training.faults.border import Border, sum_over_ranks
from swinmim.training.finite import FiniteGuard, is_spike, poison

BAD = [float("nan"), float("inf"), -float("inf"), -1.0]


def test_a_finite_loss_keeps_its_gradients_bit_for_bit():
    gradients = []
    for wrap in (poison, lambda loss: loss):
        weight = torch.linspace(-3, 7, 100).requires_grad_()
        wrap((weight.sin() * weight).mean()).backward()
        gradients.append(weight.grad)
    assert torch.equal(*gradients)


def test_an_infinite_loss_has_no_finite_gradients_though_its_own_is_one():
    weight = torch.zeros(3, requires_grad=True)
    loss = (weight - torch.inf).abs().mean()
    (plain,) = torch.autograd.grad(loss, weight, retain_graph=True)
    assert plain.isfinite().all()  # what the wrapper is for
    poison(loss).backward()
    assert weight.grad.isnan().all()


def test_guard_counts_and_stays_shut_after_too_many():
    guard = FiniteGuard(limit=2)
    norms = [1.0, BAD[0], 2.0, BAD[1], BAD[3], 3.0, 4.0]
    skipped = [guard.judge(torch.tensor(norm)).item() for norm in norms]
    assert skipped == [0, 1, 0, 1, 1, 1, 1]
    bad, in_a_row, total = (value.item() for value in guard.state)
    assert (bad, in_a_row, total) == (0, 2, 3)


def test_guard_goes_on_counting_after_a_resume():
    guard = FiniteGuard(limit=2)
    guard.total = 5.0
    guard.judge(torch.tensor(torch.nan))
    assert guard.state[2].item() == 6


def test_judging_a_step_never_waits_for_the_device():
    guard = FiniteGuard(limit=2)
    norms = torch.tensor([1.0, torch.nan, 2.0])
    loss = torch.tensor(1.0)
    with NoSync():
        for norm in norms.unbind():
            guard.judge(norm)
            poison(loss)


@pytest.mark.parametrize("bad", BAD[:3])
def test_a_skipped_step_leaves_weights_moments_and_adams_count(bad):
    torch.manual_seed(0)
    model, guard = nn.Linear(4, 3), FiniteGuard()
    optimizer = AdamW(model.parameters(), lr=0.1, fused=True)

    def step(factor):
        optimizer.zero_grad()
        (model(torch.ones(2, 4)).square().mean() * factor).backward()
        vars(optimizer)["found_inf"] = guard.judge(nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        optimizer.step()

    step(1.0)
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    step(bad)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before[0].items())
    for number, values in before[1].items():
        assert all(torch.equal(value, optimizer.state_dict()["state"][number][name]) for name, value in values.items())
    step(1.0)
    assert not torch.equal(before[0]["weight"], model.weight)
    assert optimizer.state_dict()["state"][0]["step"] == 2


def test_spikes_are_measured_against_median_and_deviation():
    history = [1.0, 1.1, 0.9, 1.05, 0.95, 50.0]  # one that got away does not widen the measure
    assert not is_spike(1.5, history, 10)
    assert is_spike(2.5, history, 10)
    assert not is_spike(-2.5, history, 10)
    flat = [1.0] * 10
    assert not is_spike(1.005, flat, 10)
    assert is_spike(1.02, flat, 10)


def test_border_gives_what_was_put_one_step_before():
    border = Border()
    assert border.read() is None
    border.put(sum_over_ranks(torch.tensor([1.0, 2.0])))
    assert border.peek() == [1.0, 2.0]
    assert border.read() == [1.0, 2.0]
    assert border.read() is None
