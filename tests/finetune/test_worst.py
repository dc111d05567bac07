"""The images that are answered worst: which they are, and their table."""

import csv

import pytest
import torch
from made_tasks import made_task

from finetune.worst import Answer, Worst, write_table

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


def test_their_table(tmp_path):
    answers = [Answer(-2.5, 0, {"class": "dog", "probability": 0.9}, {"class": "cat"})]
    write_table(tmp_path / "t.csv", answers, ["shard: cat/1.png"])
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["image", "truth", "prediction", "probability", "goodness"],
            ["shard: cat/1.png", "cat", "dog", "0.9", "-2.5"],
        ]
    rest = [Answer(-1.5, 1, {"labels": ["a", "b"], "probabilities": [0.5, 0.25], "mask": None}, {"labels": []})]
    write_table(tmp_path / "u.csv", rest, ["x.png"])
    assert (tmp_path / "u.csv").read_text().splitlines()[1] == "x.png,,a|b,0.5|0.25,-1.5"
    rest = [Answer(0.5, 2, {"objects": [{"class": "a"}, {"class": "b"}]}, {"objects": []})]
    write_table(tmp_path / "v.csv", rest, ["x.png"])
    assert (tmp_path / "v.csv").read_text().split() == ["image,truth_objects,objects,goodness", "x.png,0,2,0.5"]
