"""The task of clips: loss and metrics, settings, and that it learns what a mean of frames cannot know."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from made_clips import DIRECTIONS, moving_crops
from made_tasks import made_task
from torch import nn

from data.loading.normalise import normalise
from finetune.model import TaskModel
from swinmim.errors import ConfigError
from swinmim.models.swinv2 import create_encoder

SIDE, FRAMES = 32, 4


def batch(label, valid=None):
    return {"label": label, "valid": torch.ones(len(label), dtype=torch.bool) if valid is None else valid}


def test_frames_go_through_the_encoder_one_by_one():
    task = made_task("video", DIRECTIONS, frames=FRAMES)
    encoder = create_encoder("swinv2_demo", resolution=SIDE, embed_dim=16, head_dim=8).eval()
    images = torch.randn(2, 3 * FRAMES, 3, SIDE, SIDE)
    vectors = task.features(encoder, images)
    assert vectors.shape == (2, 3 * FRAMES, encoder.num_features)
    torch.testing.assert_close(vectors[1, 5], encoder.pool(images[1, 5][None])[0])
    assert TaskModel(encoder, task)(images).shape == (2, 4)


@pytest.mark.parametrize("ranks", [1, 2])
def test_metrics_count_every_clip_once(ranks):
    task = made_task("video", "abcdefg")
    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(20, 7, generator=generator), torch.randint(7, (20,), generator=generator)
    parts = []
    for rank in range(ranks):
        metrics = nn.ModuleDict(task.metrics())
        for rows in torch.arange(rank, 20, ranks).split(7):
            padded = torch.cat([rows, rows[:1].expand(7 - len(rows))])
            task.update(metrics, logits[padded], batch(label[padded], torch.arange(7) < len(rows)))
        parts.append(metrics)
    found = {}
    for name, metric in parts[0].items():
        for state, reduction in metric._reductions.items():
            setattr(metric, state, reduction(torch.stack([torch.as_tensor(getattr(p[name], state)) for p in parts])))
        found[name] = float(metric.compute())
    ranked = logits.argsort(1, descending=True)
    assert found["top1"] == pytest.approx(float((ranked[:, 0] == label).float().mean()))
    assert found["top5"] == pytest.approx(float((ranked[:, :5] == label[:, None]).any(1).float().mean()))
    assert found["loss"] == pytest.approx(float(F.cross_entropy(logits, label)), rel=1e-5)
    assert task.loss(logits, batch(label)) == F.cross_entropy(logits, label, label_smoothing=0.1)


def test_answers_are_classes_and_the_worst_is_the_least_probable():
    task = made_task("video", ("left", "right"))
    logits, given = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]]), batch(torch.tensor([0, 0, -1]))
    assert [row["class"] for row in task.predict(logits, given)] == ["left", "right", "left"]
    assert task.truth(given) == [{"class": "left"}, {"class": "left"}, {}]
    assert task.goodness(logits, given).argmin() == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"crop_scale": [0.9, 0.5]}, r"crop_scale is \[least, most\]"),
        ({"crop_ratio": 0.0}, r"crop_ratio must lie in \(0, 1\], got 0.0"),
        ({"width": 200}, r"width is divided among width // 64 heads; 200 is not\. Take a multiple of 64"),
    ],
)
def test_wrong_settings_say_what_is_legal(changed, message):
    with pytest.raises(ValueError, match=message):
        made_task("video", DIRECTIONS, **changed)


def test_an_encoder_without_colour_is_refused():
    with pytest.raises(ConfigError, match="Clips have 3 channels, the encoder takes 1"):
        made_task("video", DIRECTIONS, channels=1).views((SIDE, SIDE))


def made_set(clips, first):
    frames = [moving_crops(DIRECTIONS[n % 4], FRAMES, first + n, SIDE) for n in range(clips)]
    images = normalise(torch.from_numpy(np.stack(frames)), (0.25,) * 3, (0.2,) * 3)
    return images, torch.arange(clips) % 4


def learned(layers):
    """Share of right answers about 200 new clips after 14 epochs on 512."""
    torch.manual_seed(0)
    task = made_task("video", DIRECTIONS, frames=FRAMES, layers=layers, width=64, label_smoothing=0.0)
    network = TaskModel(create_encoder("swinv2_demo", resolution=SIDE, embed_dim=16, head_dim=8), task)
    images, label = made_set(512, 0)
    steps = 14 * 32
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        if step % 32 == 0:
            rows = torch.randperm(512)
        chosen = rows[step % 32 * 16 :][:16]
        loss = task.loss(network(images[chosen]), batch(label[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    images, label = made_set(200, 1000)
    with torch.no_grad():
        answers = torch.cat([network.eval()(part) for part in images.split(50)]).argmax(1)
    return float((answers == label).float().mean())


def test_opposite_directions_have_the_same_frames():
    for one, other in (("left", "right"), ("up", "down")):
        assert np.array_equal(moving_crops(one, 5, 3), moving_crops(other, 5, 3)[::-1])
        assert not np.array_equal(moving_crops(one, 5, 3), moving_crops(other, 5, 3))


@pytest.mark.slow
def test_it_tells_the_direction_of_motion_and_a_mean_of_frames_does_not():
    assert learned(layers=1) > 0.7
    assert learned(layers=0) < 0.6  # two directions of four have the same frames
