"""Any number of labels: loss and metrics against scikit-learn, over batches, padding and ranks."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_tasks import made_module, made_task
from sklearn.metrics import average_precision_score, f1_score
from torch import nn

from finetune.module import TaskModule
from finetune.tasks.registry import TASKS
from swinmim.errors import DataError

LABELS = ("red", "round", "old", "rare")


def batch(target, valid=None):
    valid = torch.ones(len(target), dtype=torch.bool) if valid is None else valid
    return {"target": target, "valid": valid}


@pytest.fixture
def drawn():
    """Logits and targets of 30 images; the last label never occurs."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(30, 4, generator=generator) < torch.tensor([0.5, 0.2, 0.1, 0.0])
    return 2 * torch.randn(30, 4, generator=generator) + target, target


def test_loss_is_binary_cross_entropy_with_the_weights_of_the_training_set(drawn):
    logits, target = drawn
    plain, weighted = (
        made_task("multilabel", LABELS),
        made_task("multilabel", LABELS, facts={"pos_weight": [1, 2, 3, 4]}),
    )
    each = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    assert torch.allclose(plain.loss(logits, batch(target)), each.mean())
    weights = torch.where(target, torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor(1.0))
    assert torch.allclose(weighted.loss(logits, batch(target)), (weights * each).mean())
    with torch.autocast("cpu", torch.bfloat16):
        assert plain.loss(logits.bfloat16(), batch(target)).dtype == torch.float32


def test_weights_are_negatives_over_positives_and_clamped(caplog):
    settings = made_task("multilabel", LABELS, pos_weight="auto").settings
    targets = np.zeros((1000, 4), bool)
    targets[:, 0], targets[:250, 1], targets[0, 2] = True, True, True
    with caplog.at_level(logging.INFO):
        facts = TASKS["multilabel"].survey(settings, iter(targets))
    assert facts == {"pos_weight": [0.01, 3.0, 100.0, 100.0]}
    assert "weigh 0.01 to 100 times those without (clamped: 3 of 4)" in caplog.text


def test_without_weights_no_target_is_read():
    def targets():
        raise AssertionError("read")
        yield

    assert TASKS["multilabel"].survey(made_task("multilabel", LABELS).settings, targets()) == {}


def counted(task, logits, target, ranks):
    """Metrics of the ranks, put together as torchmetrics does; the last batch of each is filled up with repeats."""
    parts = []
    for rank in range(ranks):
        metrics = nn.ModuleDict(task.metrics())
        own = torch.arange(rank, len(logits), ranks)
        for rows in own.split(7):
            padded = torch.cat([rows, rows[:1].expand(7 - len(rows))])
            task.update(metrics, logits[padded], batch(target[padded], torch.arange(7) < len(rows)))
        parts.append(metrics)
    first = parts[0]
    for name, metric in first.items():
        for state, reduction in metric._reductions.items():
            values = [getattr(part[name], state) for part in parts]
            gathered = [torch.cat(v) if isinstance(v, list) else v for v in values]
            both = torch.cat(gathered) if isinstance(values[0], list) else torch.stack(gathered)
            setattr(metric, state, reduction(both))
    return {name: float(metric.compute()) for name, metric in first.items()}


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_metrics_are_those_of_scikit_learn_on_any_number_of_ranks(drawn, ranks):
    logits, target = drawn
    found = counted(made_task("multilabel", LABELS, threshold=0.6), logits, target, ranks)
    probability, truth = logits.sigmoid().numpy(), target.numpy()
    given = probability > 0.6
    precision = [average_precision_score(truth[:, label], probability[:, label]) for label in range(3)]
    assert found["map"] == pytest.approx(np.mean(precision), abs=1e-6)  # the label that no image has is left out
    assert found["f1_micro"] == pytest.approx(f1_score(truth, given, average="micro"), abs=1e-6)
    f1 = f1_score(truth, given, average=None, zero_division=0)
    assert found["f1_macro"] == pytest.approx(f1.mean(), abs=1e-6)
    loss = F.binary_cross_entropy_with_logits(logits, target.float())
    assert found["loss"] == pytest.approx(float(loss), abs=1e-6)


def test_probabilities_are_not_taken_for_logits():
    """torchmetrics takes values that all lie in 0..1 as probabilities; small logits are not."""
    task = made_task("multilabel", LABELS[:2])
    metrics = nn.ModuleDict(task.metrics())
    logits, target = torch.tensor([[0.3, 0.2], [0.4, 0.1]]), torch.tensor([[True, False], [False, True]])
    task.update(metrics, logits, batch(target))
    assert float(metrics["f1_micro"].compute()) == pytest.approx(2 / 3)  # all four are given: 0.3 is above even odds


def test_a_validation_set_without_any_label_has_no_precision():
    task = made_task("multilabel", LABELS)
    metrics = nn.ModuleDict(task.metrics())
    task.update(metrics, torch.randn(3, 4), batch(torch.zeros(3, 4, dtype=torch.bool)))
    assert float(metrics["map"].compute()) == 0


def test_a_rank_without_valid_samples_still_has_something_to_gather():
    task = made_task("multilabel", LABELS)
    metrics = nn.ModuleDict(task.metrics())
    task.update(metrics, torch.randn(3, 4), batch(torch.ones(3, 4, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)))
    assert [tensor.shape for tensor in metrics["map"].target] == [(0, 4)]


def test_one_label_is_refused():
    with pytest.raises(DataError, match=r"needs at least two labels, the set has 1\..*take task=classify"):
        made_task("multilabel", ["only"])


def test_predictions_and_verdict_are_plain():
    task = made_task("multilabel", LABELS, threshold=0.5)
    rows = task.predict(torch.tensor([[1.0, -1.0, 0.1, -0.1], [-1.0, -1.0, -1.0, -1.0]]), {})
    assert [row["labels"] for row in rows] == [["red", "old"], []]
    assert rows[0]["probabilities"] == pytest.approx(torch.tensor([1.0, -1.0, 0.1, -0.1]).sigmoid().tolist())
    assert task.verdict({"val/map": 0.5, "val/f1_micro": 0.25}) == "validation mAP 50.00 %, micro F1 25.00 %"
    assert task.describe() == {"kind": "multilabel", "classes": list(LABELS), "threshold": 0.5}


@pytest.mark.slow
def test_it_learns_labels_that_the_pixels_show():
    """Whole way through the module, without Lightning: a few steps fit four labels of one batch."""
    torch.manual_seed(0)
    module: TaskModule = made_module(made_task("multilabel", LABELS))
    target = torch.tensor([[1, 0, 0, 1], [0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 1, 0]], dtype=torch.bool)
    image = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    images = {"image": image, "target": target, "valid": torch.ones(4, dtype=torch.bool)}
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    losses = []
    for _ in range(100):
        loss = module.training_loss(images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.3 * losses[0]
    metrics = module.metrics
    module.task.update(metrics, module.network(module.prepare(images)).detach(), images)
    assert float(metrics["map"].compute()) == 1


def test_truth_goodness_and_details_are_those_of_scikit_learn(drawn):
    task = made_task("multilabel", LABELS)
    logits, target = drawn
    probability = logits.sigmoid()
    assert task.truth(batch(target))[0]["labels"] == [name for name, has in zip(LABELS, target[0], strict=True) if has]
    expected = torch.where(target, probability, 1 - probability).log().mean(1)
    torch.testing.assert_close(task.goodness(logits, batch(target)), expected, rtol=1e-4, atol=1e-5)
    metrics = nn.ModuleDict(task.metrics() | task.detailed_metrics())
    for rows in torch.arange(30).split(7):
        task.update(metrics, logits[rows], batch(target[rows]))
    task.update(metrics, logits[:2], batch(target[:2], torch.zeros(2, dtype=torch.bool)))
    rows = task.details(metrics)["per_class"]
    assert [row["label"] for row in rows] == list(LABELS)
    for index, row in enumerate(rows[:3]):
        truth, said = target[:, index], probability[:, index] > 0.5
        assert row["images"] == int(truth.sum())
        assert row["recall"] == pytest.approx(float((said & truth).sum() / truth.sum()))
        assert row["precision"] == pytest.approx(float((said & truth).sum() / said.sum()))
        assert row["average_precision"] == pytest.approx(average_precision_score(truth, probability[:, index]))
    assert (rows[3]["images"], rows[3]["recall"], rows[3]["average_precision"]) == (0, None, None)
    mean = np.mean([row["average_precision"] for row in rows[:3]])
    assert float(metrics["map"].compute()) == pytest.approx(mean)
