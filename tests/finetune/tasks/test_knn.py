"""Nearest neighbours as a task; the votes themselves: tests/swinmim/evaluation/test_knn.py."""

import pytest
import torch
import yaml
from made_tasks import made_encoder

from finetune.frozen import Effort
from finetune.tasks.knn import KNN, KNNConfig
from swinmim.config import CONF_DIR
from swinmim.evaluation.features import Features

EFFORT = Effort(epochs=1, batch_size=2, seed=0, device=torch.device("cpu"))


def made(**changed):
    settings = yaml.safe_load((CONF_DIR / "task" / "knn.yaml").read_text()) | changed
    return KNN(KNNConfig(**settings), made_encoder(), 2)


def test_a_line_for_each_stage_with_the_share_of_right_votes():
    bank = Features({1: torch.eye(2), 2: torch.eye(2)}, {}, torch.tensor([0, 1]))
    vectors = torch.tensor([[1.0, 0.1], [0.1, 1.0], [0.9, 0.2], [0.3, 0.1]])
    val = Features({1: vectors, 2: vectors.flip(1)}, {}, torch.tensor([0, 1, 0, 1]))
    measured = made().measure(bank, val, EFFORT)
    assert [(one.stage, one.head, one.top1, one.chosen) for one in measured] == [
        (1, "knn", 0.75, {}),
        (2, "knn", 0.25, {}),
    ]


def test_the_settings_are_the_published_ones():
    assert (made().settings.k, made().settings.temperature) == (20, 0.07)
    assert not made().keeps_maps
    assert "yardstick is fine-tuning" in made().remarks([])[0]


def test_neighbours_are_at_least_one():
    bank = Features({1: torch.eye(2), 2: torch.eye(2)}, {}, torch.tensor([0, 1]))
    assert made(k=1).measure(bank, bank, EFFORT)[0].top1 == pytest.approx(1)
