"""Values: loss and metrics against scikit-learn, over batches, padding and ranks; units; columns that never change."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_tasks import made_task
from sklearn.metrics import mean_absolute_error, r2_score
from torch import nn

from finetune.tasks.registry import TASKS
from swinmim.errors import DataError

COLUMNS = ("age", "year", "depth")
FACTS = {"mean": [40.0, 2000.0, 0.001], "std": [20.0, 2.0, 0.0005]}


def batch(target, valid=None):
    valid = torch.ones(len(target), dtype=torch.bool) if valid is None else valid
    return {"target": target, "valid": valid}


@pytest.fixture
def drawn():
    """Standardised answers to 30 images, and targets in their units."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(30, 3, generator=generator)
    target = truth * torch.tensor(FACTS["std"]) + torch.tensor(FACTS["mean"])
    return truth + torch.randn(30, 3, generator=generator) * torch.tensor([0.1, 0.5, 2.0]), target


def counted(task, output, target, ranks):
    """Metrics of the ranks, put together as torchmetrics does; the last batch of each is filled up with repeats."""
    parts = []
    for rank in range(ranks):
        metrics = nn.ModuleDict(task.metrics())
        own = torch.arange(rank, len(output), ranks)
        for rows in own.split(7):
            padded = torch.cat([rows, rows[:1].expand(7 - len(rows))])
            task.update(metrics, output[padded], batch(target[padded], torch.arange(7) < len(rows)))
        parts.append(metrics)
    found = {}
    for name, metric in parts[0].items():
        for state, reduction in metric._reductions.items():
            setattr(metric, state, reduction(torch.stack([getattr(part[name], state) for part in parts])))
        value = metric.compute()
        found |= value if isinstance(value, dict) else {name: value}
    return {name: float(value) for name, value in found.items()}


def units(output):
    return output.numpy() * np.array(FACTS["std"]) + np.array(FACTS["mean"])


@pytest.mark.parametrize("kind", ["mse", "smooth_l1"])
def test_loss_is_on_standardised_values(drawn, kind):
    output, target = drawn
    task = made_task("regress", COLUMNS, facts=FACTS, loss=kind)
    away = (output - (target - torch.tensor(FACTS["mean"])) / torch.tensor(FACTS["std"])).abs()
    slow = away**2 if kind == "mse" else torch.where(away < 1, away**2 / 2, away - 0.5)
    assert torch.allclose(task.loss(output, batch(target)), slow.mean())
    with torch.autocast("cpu", torch.bfloat16):
        assert task.loss(output.bfloat16(), batch(target)).dtype == torch.float32


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_metrics_are_those_of_scikit_learn_on_any_number_of_ranks(drawn, ranks):
    output, target = drawn
    found = counted(made_task("regress", COLUMNS, facts=FACTS), output, target, ranks)
    mae = mean_absolute_error(target.numpy(), units(output), multioutput="raw_values")
    r2 = r2_score(target.numpy(), units(output), multioutput="raw_values")
    for name, error, share in zip(COLUMNS, mae, r2, strict=True):
        assert found[f"mae_{name}"] == pytest.approx(error, rel=1e-4)
        assert found[f"r2_{name}"] == pytest.approx(share, abs=1e-4)
    assert found["r2"] == pytest.approx(r2.mean(), abs=1e-4)
    assert found.keys() == {f"{key}_{name}" for key in ("mae", "r2") for name in COLUMNS} | {"r2", "loss"}


def test_one_column_needs_no_name(drawn):
    output, target = (tensor[:, :1] for tensor in drawn)
    facts = {key: value[:1] for key, value in FACTS.items()}
    task = made_task("regress", COLUMNS[:1], facts=facts)
    found = counted(task, output, target, 2)
    assert found.keys() == {"mae", "r2", "loss"}
    assert found["loss"] == pytest.approx(float(F.mse_loss(output, (target - 40) / 20)))
    told = task.verdict({f"val/{name}": value for name, value in found.items()})
    assert told == f"validation MAE {found['mae']:.4g}, R2 {found['r2']:.3f}"


def test_predictions_are_in_the_units_of_their_columns(drawn):
    output, target = drawn
    task = made_task("regress", COLUMNS, facts=FACTS)
    rows = task.predict(output, batch(target))
    np.testing.assert_allclose([list(row.values()) for row in rows], units(output), rtol=1e-5)
    assert list(rows[0]) == list(COLUMNS)
    assert task.truth(batch(target))[3]["year"] == float(target[3, 1])
    assert task.goodness(output, batch(target)).argmin() == (output - (target - torch.tensor(FACTS["mean"])) / (
        torch.tensor(FACTS["std"]))).abs().mean(1).argmax()  # fmt: skip
    assert task.describe()["std"] == FACTS["std"]


@pytest.mark.parametrize("images", [0, 1])
def test_too_few_images_have_no_r2(images):
    task = made_task("regress", COLUMNS, facts=FACTS)
    metrics = nn.ModuleDict(task.metrics())
    task.update(metrics, torch.zeros(2, 3), batch(torch.zeros(2, 3), torch.arange(2) < images))
    assert all(np.isnan(float(value)) for value in metrics["r2"].compute().values())
    assert metrics["mae"].sum_abs_error.shape == metrics["r2"].residual.shape == (3,)  # all ranks add up as many


def test_the_survey_is_exact_for_large_numbers():
    values = np.random.default_rng(0).normal([2000, 0], [1, 1e-3], (1000, 2)).astype(np.float32)
    facts = TASKS["regress"].survey(made_task("regress").settings, iter(values))
    np.testing.assert_allclose(facts["mean"], values.astype(np.float64).mean(0), rtol=1e-9)
    np.testing.assert_allclose(facts["std"], values.astype(np.float64).std(0), rtol=1e-9)
    constant = TASKS["regress"].survey(made_task("regress").settings, iter([np.float32([0.1, 3])] * 7))
    assert constant["std"] == [0.0, 0.0]
    assert TASKS["regress"].survey(made_task("regress").settings, iter(())) == {}


def test_a_column_that_never_changes_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        task = made_task("regress", COLUMNS, facts={"mean": [1.0, 2.0, 3.0], "std": [1.0, 0.0, 1.0]})
    assert "nothing is learnt of it: year" in caplog.text
    output = torch.tensor([[1.0, 0.3, 2.0], [3.0, 0.1, 3.0], [4.0, 0.2, 5.0]])
    found = counted(task, output, task._values(output), 1)
    assert (found["r2_year"], found["r2"]) == (1.0, 1.0)
    found = counted(task, output, task._values(output) + torch.tensor([0.0, 1.0, 0.0]) * output, 1)
    assert (found["r2_year"] < 1, found["r2"]) == (True, 1.0)
    assert torch.isfinite(task.loss(torch.zeros(2, 3), batch(torch.full((2, 3), 2.0))))
    with pytest.raises(DataError, match="in the training set age, year, depth never change"):
        made_task("regress", COLUMNS, facts={"mean": [0.0] * 3, "std": [0.0] * 3})


def test_names_that_mean_something_else_are_refused():
    with pytest.raises(DataError, match=r"use the name mask for something else\. Rename that column"):
        made_task("regress", ("age", "mask"))
