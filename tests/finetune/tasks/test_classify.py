"""Classification: loss, mixing and metrics against torch, torchvision and plain counting."""

import pytest
import torch
import torch.nn.functional as F
from made_tasks import made_task
from torch import nn
from torchvision.transforms import v2

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


def test_predictions_and_verdict_are_plain():
    task = made_task("classify", ["cat", "dog", "owl"])
    rows = task.predict(LOGITS, {})
    assert [row["class"] for row in rows] == ["cat", "dog", "owl", "cat"]
    assert rows[0]["probability"] == pytest.approx(float(LOGITS[0].softmax(0)[0]))
    assert task.verdict({"val/top1": 0.8125}) == "validation top-1 81.25 %"
    assert task.describe() == {"kind": "classify", "classes": ["cat", "dog", "owl"]}
