"""Classification: loss, mixing and metrics against torch, torchvision and plain counting."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_tasks import made_task
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import nn
from torchvision.transforms import v2

from finetune.tasks.classify import inverse_frequency
from finetune.tasks.registry import TASKS

LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 1.0, 2.0], [9.0, 0.0, 0.0]])


def batch(labels, valid=(True, True, True, True)):
    return {"label": torch.tensor(labels), "valid": torch.tensor(valid)}


def test_loss_is_smoothed_cross_entropy_in_float32():
    task = made_task("classify", "abc", label_smoothing=0.2)
    labels = batch([0, 1, 0, 2])
    expected = F.cross_entropy(LOGITS, labels["label"], label_smoothing=0.2)
    assert torch.equal(task.loss(LOGITS, labels), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert task.loss(LOGITS.bfloat16(), labels).dtype == torch.float32


def test_mixing_draws_what_torchvision_draws():
    images, labels = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
    task = made_task("classify", "abc", erasing=0.0, cutmix=0.0, mixup=0.7)
    torch.manual_seed(3)
    mixed, soft = task.mix(images, {"label": labels, "valid": None})
    torch.manual_seed(3)
    expected, expected_soft = v2.RandomChoice([v2.MixUp(alpha=0.7, num_classes=3)])(images, labels)
    assert torch.equal(mixed, expected)
    assert torch.equal(soft["label"], expected_soft)
    assert soft["valid"] is None  # the rest of the batch is as it was


def test_without_mixing_the_batch_stays_as_it_is():
    task = made_task("classify_light", "abc")
    images, labels = torch.randn(4, 3, 8, 8), batch([0, 1, 2, 1])
    assert task.mix(images, labels) == (images, labels)


def test_erasing_changes_some_pixels_and_no_label():
    task = made_task("classify_light", "abc", erasing=1.0)
    images, labels = torch.zeros(4, 3, 32, 32), batch([0, 1, 2, 1])
    erased, same = task.mix(images.clone(), labels)
    assert same is labels
    assert all(0 < int((image != 0).any(0).sum()) < 32 * 32 for image in erased)


@pytest.mark.parametrize("num_classes", [3, 6])
def test_metrics_leave_out_what_is_not_valid(num_classes):
    task = made_task("classify", [str(n) for n in range(num_classes)])
    logits = F.pad(LOGITS, (0, num_classes - 3), value=-9.0)
    metrics = nn.ModuleDict(task.metrics())
    task.update(metrics, logits, batch([0, 1, 0, 1], (True, True, True, False)))
    task.update(metrics, logits, batch([1, 1, 1, 1], (False, False, False, False)))
    assert set(metrics) == {"top1", "loss"} | ({"top5"} if num_classes > 5 else set())
    assert float(metrics["top1"].compute()) == pytest.approx(2 / 3)
    assert float(metrics["loss"].compute()) == pytest.approx(
        float(F.cross_entropy(logits[:3], torch.tensor([0, 1, 0])))
    )
    if num_classes > 5:
        assert float(metrics["top5"].compute()) == 1


def test_weights_are_inverse_frequencies_within_a_range(caplog):
    settings = made_task("classify", "abc", class_weights="auto").settings
    with caplog.at_level(logging.INFO):
        facts = TASKS["classify"].survey(settings, iter([0] * 60 + [1] * 30 + [2] * 10))
    assert facts == {"class_weights": pytest.approx([100 / 180, 100 / 90, 100 / 30])}
    assert "an image counts 0.556 (the most frequent class, 60 images) to 3.33 (10 images)" in caplog.text
    counts = np.array([10_000, 10, 0])
    weights = inverse_frequency(counts)
    assert weights / weights[0] == pytest.approx([1, 100, 100])
    assert (weights * counts).sum() == pytest.approx(counts.sum())
    assert TASKS["classify"].survey(made_task("classify", "abc").settings, iter([0, 1])) == {}


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_a_weighted_loss_is_the_mean_of_weighted_losses_with_hard_and_soft_labels(smoothing):
    facts = {"class_weights": [0.5, 2.0]}  # the last class has no training image
    task = made_task("classify", "abc", label_smoothing=smoothing, facts=facts)
    weights, labels = torch.tensor([0.5, 2.0, 2.0]), torch.tensor([0, 1, 0, 2])
    soft = F.one_hot(labels, 3) * (1 - smoothing) + smoothing / 3
    expected = -(soft * weights * LOGITS.log_softmax(1)).sum(1).mean()
    hard = task.loss(LOGITS, batch([0, 1, 0, 2]))
    torch.testing.assert_close(hard, expected)
    torch.testing.assert_close(task.loss(LOGITS, {"label": F.one_hot(labels, 3).float()}), hard)
    rare = made_task("classify", "abc", label_smoothing=0.0, facts=facts).loss(LOGITS[1:2], batch([1]))
    assert rare == pytest.approx(2 * float(F.cross_entropy(LOGITS[1:2], torch.tensor([1]))))


def test_what_was_true_and_how_well_it_was_said():
    task = made_task("classify", ["cat", "dog", "owl"])
    labels = batch([0, 1, 0, 2])
    assert [row["class"] for row in task.truth(labels)] == ["cat", "dog", "cat", "owl"]
    expected = LOGITS.log_softmax(1)[torch.arange(4), labels["label"]]
    torch.testing.assert_close(task.goodness(LOGITS, labels), expected)


def test_details_are_those_of_scikit_learn():
    task = made_task("classify", ["cat", "dog", "owl", "yak"])
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(60, 4, generator=generator), torch.randint(3, (60,), generator=generator)
    logits[:, 1] = -99  # never said; and yak never true
    metrics = nn.ModuleDict(task.metrics() | task.detailed_metrics())
    for rows in torch.arange(60).split(25):
        task.update(metrics, logits[rows], {"label": labels[rows], "valid": torch.ones(len(rows), dtype=torch.bool)})
    task.update(metrics, logits[:2], {"label": labels[:2], "valid": torch.zeros(2, dtype=torch.bool)})
    details, said = task.details(metrics), logits.argmax(1)
    assert np.array_equal(details["confusion"], confusion_matrix(labels, said, labels=range(4)))
    precision, recall, _, images = precision_recall_fscore_support(labels, said, labels=range(4), zero_division=np.nan)
    for index, row in enumerate(details["per_class"]):
        assert (row["class"], row["images"]) == (task.subject.classes[index], images[index])
        for name, value in (("precision", precision[index]), ("recall", recall[index])):
            assert row[name] is None if np.isnan(value) else row[name] == pytest.approx(value)
    assert details["per_class"][1]["precision"] is details["per_class"][3]["recall"] is None


def test_predictions_and_verdict_are_plain():
    task = made_task("classify", ["cat", "dog", "owl"])
    rows = task.predict(LOGITS, {})
    assert [row["class"] for row in rows] == ["cat", "dog", "owl", "cat"]
    assert rows[0]["probability"] == pytest.approx(float(LOGITS[0].softmax(0)[0]))
    assert rows[0]["top"][0]["class"] == "cat"
    assert sum(one["probability"] for one in rows[0]["top"]) == pytest.approx(1)
    assert task.verdict({"val/top1": 0.8125}) == "validation top-1 81.25 %"
    assert task.describe() == {"kind": "classify", "classes": ["cat", "dog", "owl"]}
