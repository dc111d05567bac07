"""The images that are answered worst: which they are, their table and their picture."""

import csv

import numpy as np
import pytest
import torch
from made_tasks import made_task
from PIL import Image

from finetune.worst import Answer, Worst, draw_answers, in_words, to_rgb, write_table

NAMES = ("cat", "dog", "owl")


def fill(worst, logits, labels, size):
    for rows in torch.arange(len(labels)).split(size):
        valid = rows % 7 != 3
        worst.add(logits[rows], {"label": labels[rows], "valid": valid, "index": 100 + rows})


@pytest.mark.parametrize("size", [1, 8, 64])
def test_they_are_those_of_a_sort_whatever_the_batches(size):
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(50, 3, generator=generator), torch.randint(3, (50,), generator=generator)
    worst = Worst(made_task("classify", NAMES), 5)
    fill(worst, logits, labels, size)
    goodness = logits.log_softmax(1)[torch.arange(50), labels]
    expected = [int(n) for n in goodness.argsort() if n % 7 != 3][:5]
    assert [one.image for one in worst.answers] == [100 + n for n in expected]
    for one, n in zip(worst.answers, expected, strict=True):
        assert one.truth == {"class": NAMES[labels[n]]}
        assert one.row["class"] == NAMES[logits[n].argmax()]
        assert one.goodness == pytest.approx(float(goodness[n]))


def test_parts_of_several_ranks_are_put_together():
    worst = Worst(made_task("classify", NAMES), 2)
    worst.merge([Answer(-1.0, 3, {}, {}), Answer(-0.5, 4, {}, {})])
    worst.merge([Answer(-0.7, 1, {}, {}), Answer(-1.0, 2, {}, {})])
    assert [one.image for one in worst.answers] == [2, 3]


def test_what_a_task_does_not_judge_is_not_kept():
    task = made_task("classify", NAMES)
    task.goodness = lambda output, batch: None
    worst = Worst(task)
    fill(worst, torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64), 4)
    assert worst.answers == []


def test_table_and_picture(tmp_path):
    answers = [Answer(-2.5, 0, {"class": "dog", "probability": 0.9}, {"class": "cat"})]
    answers += [Answer(-1.5, 1, {"labels": ["a", "b"], "probabilities": [0.5]}, {"labels": []})]
    write_table(tmp_path / "t.csv", answers[:1], ["shard: cat/1.png"])
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["image", "truth", "prediction", "probability", "goodness"],
            ["shard: cat/1.png", "cat", "dog", "0.9", "-2.5"],
        ]
    images = [np.full((20, 40, 3), 200, np.uint8), np.full((30, 10, 1), 40_000, np.uint16)]
    sheet = draw_answers(made_task("classify", NAMES), images, answers)
    assert sheet.width == 2 * 166 + 6
    assert np.asarray(sheet)[20, 20].tolist() == [200] * 3
    assert [in_words(one.row) for one in answers] == ["dog, 0.9", "a + b"]
    assert in_words({"labels": []}) == "none"
    assert in_words({"objects": [{}, {}], "mask": None}) == "2 objects"


def test_a_task_that_draws_is_drawn():
    task = made_task("classify", NAMES)
    task.draw = lambda image, row: Image.new("RGB", (image.shape[1], image.shape[0]), row["class"])
    answer = Answer(0.0, 0, {"class": "red"}, {"class": "lime"})
    sheet = np.asarray(draw_answers(task, [np.zeros((10, 10, 3), np.uint8)], [answer]))
    assert sheet[80, 80].tolist() == [0, 0, 0]
    assert sheet[80, 240].tolist() == [0, 255, 0]
    assert sheet[80, 400].tolist() == [255, 0, 0]


def test_other_bands_and_bits_are_shown():
    deep = np.full((2, 2, 5), 65_535, np.uint16)
    assert to_rgb(deep).dtype == np.uint8
    assert to_rgb(deep).tolist() == np.full((2, 2, 3), 255).tolist()
