"""Segmentation: loss against a slow formula, one exact count over ranks and sizes, windows, and wrong settings."""

import importlib.util
import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_tasks import made_batch, made_encoder, made_module, made_task
from torch import nn

from finetune.model import TaskModel
from finetune.task import Subject
from finetune.tasks.pixels import confusion_metric, scores, starts, windowed
from finetune.tasks.segment import Segment, class_weights
from swinmim.errors import ConfigError, DataError
from swinmim.models.swinv2 import create_encoder

CLASSES = ("sky", "sea", "town", "boat")
SETTINGS = pytest.mark.parametrize("name", ["segment", "segment_light"])


def drawn(seed, *shape, classes=4, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, classes, shape, generator=generator, dtype=torch.uint8)
    return mask.masked_fill(torch.rand(shape, generator=generator) < ignored, 255)


def slow_dice(logits, target):
    """1 - 2 |A and B| / (|A| + |B|) of each class that occurs, over all classes."""
    probability, losses = logits.softmax(1), []
    for number in range(logits.shape[1]):
        truth, known = (target == number).float(), (target != 255).float()
        both, either = (probability[:, number] * truth).sum(), (probability[:, number] * known).sum() + truth.sum()
        losses.append((1 - 2 * both / either) if truth.sum() else torch.tensor(0.0))
    return torch.stack(losses).mean()


def test_loss_is_the_mean_over_pixels_with_a_class():
    logits, target = torch.randn(2, 4, 5, 6), drawn(0, 2, 5, 6)
    target[target == 3] = 2
    each = F.cross_entropy(logits, target.long(), ignore_index=255, reduction="none")
    known = target != 255
    assert torch.allclose(made_task("segment", CLASSES).loss(logits, {"target": target}), each[known].mean())
    task = made_task("segment", CLASSES, dice=2.0)
    expected = each[known].mean() + 2 * slow_dice(logits, target)
    assert torch.allclose(task.loss(logits, {"target": target}), expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert task.loss(logits.bfloat16(), {"target": target}).dtype == torch.float32


def test_class_weights_are_those_of_the_training_set(caplog):
    masks = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 0, 255, 255]], np.uint8), np.full((3, 4), 2, np.uint8)]
    settings = made_task("segment", CLASSES, class_weights="auto").settings
    facts = Segment.survey(settings, iter(masks))
    assert facts["masks"] == 3
    assert facts["pixels"][:4] == [5, 1, 12, 0]
    assert facts["around"][:4] == [6, 4, 12, 0]
    with caplog.at_level(logging.INFO):
        task = made_task("segment", CLASSES, class_weights="auto", facts=facts)
    # frequencies 5/6, 1/4 and 1, median 5/6; the class that never occurs weighs nothing anywhere
    assert task.class_weights.tolist() == pytest.approx([1.0, 10 / 3, 5 / 6, 1.0])
    assert "no pixel of boat in 3 training masks" in caplog.text
    assert "classes weigh 0.833 to 3.33" in caplog.text
    assert class_weights(np.array([1, 10**6]), np.array([10**6, 10**6])).max() == 10.0
    logits, target = torch.randn(2, 4, 5, 6), drawn(1, 2, 5, 6)
    expected = F.cross_entropy(logits, target.long(), weight=task.class_weights, ignore_index=255)
    assert torch.allclose(task.loss(logits, {"target": target}), expected)


def test_without_weights_a_part_of_the_masks_is_enough():
    settings = made_task("segment", CLASSES).settings
    facts = Segment.survey(settings, iter([np.zeros((2, 2), np.uint8)] * 2100))
    assert facts["masks"] == 2000
    assert made_task("segment", CLASSES, facts=facts).class_weights is None


@SETTINGS
def test_a_batch_without_any_class_teaches_nothing(name):
    task = made_task(name, CLASSES)
    logits = torch.randn(1, 4, 8, 8, requires_grad=True)
    loss = task.loss(logits, {"target": torch.full((1, 8, 8), 255, dtype=torch.uint8)})
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def slow_scores(pairs, classes):
    iou, right, known = [], 0, 0
    for number in range(classes):
        hits = either = truth = 0
        for predicted, mask in pairs:
            for p, t in zip(predicted.flatten().tolist(), mask.flatten().tolist(), strict=True):
                if t == 255:
                    continue
                hits += p == t == number
                either += number in (p, t)
                truth += t == number
        right, known = right + hits, known + truth
        iou.append(hits / either if truth else None)
    held = [value for value in iou if value is not None]
    return sum(held) / len(held), right / known, iou


@pytest.mark.parametrize("ranks", [1, 2])
def test_metrics_equal_a_slow_count_over_ranks_padding_and_sizes(ranks):
    """The last batch of each rank is filled up with repeats; class boat never occurs, but is predicted."""
    task = made_task("segment", CLASSES)
    sizes = [(5, 7), (4, 4), (9, 3), (1, 1), (6, 6)]
    truth = [drawn(n, *size, classes=3) for n, size in enumerate(sizes)]
    predicted = [drawn(n + 50, *size, ignored=0.0) for n, size in enumerate(sizes)]
    parts = []
    for rank in range(ranks):
        metrics = task.metrics()
        own = list(range(rank, len(sizes), ranks))
        for first in range(0, len(own), 2):
            rows = own[first : first + 2]
            padded = (rows + rows)[:2]
            valid = torch.arange(2) < len(rows)
            batch = {"target": [truth[n] for n in padded], "valid": valid}
            task.update(metrics, [predicted[n] for n in padded], batch)
        parts.append(metrics["miou"])
    first = parts[0]
    assert first._reductions["matrix"] is torch.sum or first._reductions["matrix"].__name__ == "dim_zero_sum"
    first.matrix = torch.stack([part.matrix for part in parts]).sum(0)
    values = first.compute()
    miou, accuracy, iou = slow_scores(list(zip(predicted, truth, strict=True)), 4)
    assert float(values["miou"]) == pytest.approx(miou, abs=1e-12)
    assert float(values["pixel_accuracy"]) == pytest.approx(accuracy, abs=1e-12)
    assert values["classes"] == 3
    told = task.details({"miou": first})
    assert [row["iou"] for row in told["per_class"]] == pytest.approx(iou)
    assert told["confusion"].sum() == sum(int((mask != 255).sum()) for mask in truth)
    words = task.verdict({f"val/{name}": float(value) for name, value in values.items()})
    assert words.startswith(f"validation mIoU {100 * miou:.2f} % over the 3 of 4 classes that occur, pixel accuracy")


def test_nothing_to_count_is_no_error():
    metric = confusion_metric(3)
    metric.update(torch.zeros(2, 2, dtype=torch.uint8), torch.full((2, 2), 255, dtype=torch.uint8))
    assert all(value == 0 for value in metric.compute().values())
    assert scores(metric.matrix.numpy()) == ([None] * 3, [None] * 3)


@pytest.mark.parametrize(
    ("side", "overlap", "expected"),
    [
        (10, 0.5, [0]),
        (32, 0.5, [0]),
        (33, 0.0, [0, 1]),
        (64, 0.0, [0, 32]),
        (64, 0.5, [0, 16, 32]),
        (70, 0.5, [0, 13, 25, 38]),
    ],
)
def test_windows_cover_a_side(side, overlap, expected):
    assert starts(side, 32, overlap) == expected


class Local(nn.Module):
    """A network whose logits of a pixel depend on that pixel alone."""

    def __init__(self, resolution):
        super().__init__()
        self.encoder = type("Encoder", (), {"resolution": resolution})
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        return torch.stack([images[:, 0], images[:, 1], images[:, 0] + images[:, 1] - 0.3], dim=1)


@pytest.mark.parametrize("resolution", [(16, 16), (16, 24)])
def test_windows_of_a_local_network_give_what_the_whole_image_gives(resolution):
    network = Local(resolution)
    images = [torch.randn(3, *size) for size in [(16, 24), (5, 40), (33, 7), (50, 60), (1, 1)]]
    for image, found in zip(images, windowed(network, images, 1 / 3), strict=True):
        assert found.dtype == torch.uint8
        assert torch.equal(found, Local(None)(image[None])[0].argmax(0))
    assert {shape[1:] for shape in network.seen} == {(3, *resolution)}
    assert max(shape[0] for shape in network.seen) == len(images)


@SETTINGS
@pytest.mark.parametrize("resolution", [(32, 32), (32, 64)])
def test_a_single_image_of_the_smallest_maps_is_learnt_from(name, resolution):
    """Batch norms would find one value per channel at the top of the pyramid: 1x1 maps of one image."""
    task = made_task(name, CLASSES, width=32)
    encoder = create_encoder("swinv2_t", resolution=resolution, window=1, embed_dim=16, head_dim=8)
    network = TaskModel(encoder, task).train()
    logits = network(torch.randn(1, 3, *resolution))
    assert logits.shape == (1, 4, *resolution)
    task.loss(logits, {"target": drawn(0, 1, *resolution)}).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None]
    assert without == []  # DDP would wait for them
    assert {name.split(".")[0] for name, _ in network.named_buffers() if "running" in name} == set()


@SETTINGS
def test_a_result_does_not_depend_on_the_batch(name):
    network = TaskModel(made_encoder(), made_task(name, CLASSES))
    images = torch.randn(3, 3, 32, 32)
    together = network(images)
    assert torch.allclose(together[1:2], network(images[1:2]), atol=1e-4)


@SETTINGS
def test_any_size_with_padding(name):
    encoder = made_encoder()
    encoder.resize((37, 50), pad=True)
    assert TaskModel(encoder, made_task(name, CLASSES))(torch.randn(1, 3, 37, 50)).shape == (1, 4, 40, 52)


@SETTINGS
def test_training_under_bf16_and_recompute_gives_finite_gradients(name):
    encoder = create_encoder("swinv2_demo", resolution=32, embed_dim=16, head_dim=8, recompute="full", drop_path=0.1)
    task = made_task(name, CLASSES)
    network = TaskModel(encoder, task).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = network(torch.randn(2, 3, 32, 32))
    task.loss(output, {"target": drawn(0, 2, 32, 32)}).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


@SETTINGS
def test_answers_lie_in_the_size_of_the_image(name):
    task = made_task(name, CLASSES)
    module = made_module(task)
    batch = made_batch(task, task.views((32, 32))[1])
    output = task.infer(module.network.eval(), module.prepare(batch))
    rows, truth = task.predict(output, batch), task.truth(batch)
    assert {row["mask"].shape for row in rows + truth} == {(40, 50)}
    assert rows[0]["mask"].dtype == np.uint8
    assert set(rows[0]["classes"]) == {CLASSES[n] for n in np.unique(rows[0]["mask"])}
    perfect = [mask.clone() for mask in batch["target"]]
    assert torch.allclose(task.goodness(perfect, batch), torch.ones(4, dtype=torch.float64))
    picture = np.asarray(task.draw(np.zeros((40, 50, 3), np.uint8), {"mask": np.full((40, 50), 255, np.uint8)}))
    assert not picture.any()  # what has no class is as it was
    assert task.legend().size == (480, 18)


def test_a_scale_that_falls_is_refused():
    with pytest.raises(ValueError, match=r"scale is \[least, largest\], got \[2\.0, 0\.5\]"):
        made_task("segment", CLASSES, scale=(2.0, 0.5))


def test_a_missing_extra_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'swinmim\[segment\]'"):
        made_task("segment", CLASSES)


def test_subjects_that_do_not_fit():
    with pytest.raises(DataError, match="at least two classes, the set has 1"):
        made_task("segment", ("sky",))
    for channels, bits in [(5, 8), (3, 16)]:
        with pytest.raises(ConfigError, match=rf"got {channels} of {bits}\. Add task\.jitter=0"):
            made_task("segment", CLASSES, channels=channels, bits=bits).views((32, 32))
        made_task("segment", CLASSES, channels=channels, bits=bits, jitter=0.0).views((32, 32))
    assert Segment.needs == "mask"
    assert Subject(CLASSES).channels == 3
