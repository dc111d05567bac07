"""A task model as one network: rebuilt from its folder, whatever its head gives, as long as these are tensors."""

import dataclasses

import pytest
import torch
from made_folders import made_encoder, made_task_model, spread
from made_tasks import made_task
from torch import nn

from finetune.apply import exported
from finetune.model import TaskModel
from finetune.tasks.classify import Classify
from finetune.tasks.registry import TASKS
from swinmim.checkpoint.encoder import open_encoder, save_encoder
from swinmim.checkpoint.task_model import save_task_model
from swinmim.errors import CheckpointError

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Dense(Classify):
    """Stands for a task that answers for each pixel."""

    answer = staticmethod(lambda maps: maps)

    def head(self, encoder):
        task = self

        class Head(nn.Module):
            def __init__(self):
                super().__init__()
                self.out = nn.Conv2d(encoder.num_features, 2, 1)

            def forward(self, maps):
                return task.answer(nn.functional.interpolate(self.out(maps[-1]), scale_factor=8))

        return Head()

    @staticmethod
    def features(encoder, images):
        return encoder.features(images)


def saved(folder, task):
    network = TaskModel(made_encoder(), task).eval()
    spread(network)
    recipe = {"task": dataclasses.asdict(task.settings)}
    save_task_model(network.encoder, folder, network.state_dict(), {"task": task.describe(), "recipe": recipe})
    return network


@torch.no_grad()
@pytest.mark.parametrize("name", ["classify", "multilabel"])
def test_a_task_is_rebuilt_from_its_folder(tmp_path, name):
    expected = saved(tmp_path / "task", made_task(name))
    network = exported.task_network(open_encoder(tmp_path / "task"), None)
    (found,) = network.module(IMAGES)
    torch.testing.assert_close(found, expected(IMAGES), rtol=0, atol=1e-5)
    assert (network.outputs, network.resolution, network.what) == (("output",), (64, 64), "task model")
    assert network.facts == {"kind": name, "classes": ["a", "b"]}
    assert exported.task_network(open_encoder(tmp_path / "task"), 128).resolution == (128, 128)


@torch.no_grad()
def test_published_weights_have_a_classifier_and_no_settings(tmp_path):
    head = nn.Linear(32, 3)
    folder = made_task_model(tmp_path / "task", head)
    (found,) = exported.task_network(open_encoder(folder), None).module(IMAGES)
    torch.testing.assert_close(found, head(made_encoder()(IMAGES)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_what_a_head_gives(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "classify", Dense)
    settings = made_task("classify")
    expected = saved(tmp_path / "task", Dense(settings.settings, settings.subject))(IMAGES)
    assert expected.shape == (2, 2, 64, 64)
    for answer, outputs in (
        (lambda maps: maps, ("output",)),
        (lambda maps: {"mask": maps, "edge": -maps}, ("mask", "edge")),
        (lambda maps: [maps, maps[:, 0]], ("output0", "output1")),
    ):
        monkeypatch.setattr(Dense, "answer", staticmethod(answer))
        network = exported.task_network(open_encoder(tmp_path / "task"), None)
        assert network.outputs == outputs
        torch.testing.assert_close(network.module(IMAGES)[0], expected, rtol=0, atol=1e-5)
    for answer in (lambda maps: [{"boxes": maps}], lambda maps: maps.flatten(), lambda maps: "a mask"):
        monkeypatch.setattr(Dense, "answer", staticmethod(answer))
        with pytest.raises(CheckpointError, match="gives tensors with a row for each; the network of task=classify"):
            exported.task_network(open_encoder(tmp_path / "task"), None)


def test_what_cannot_be_rebuilt(tmp_path):
    lone = save_encoder(made_encoder(), tmp_path / "lone")
    with pytest.raises(CheckpointError, match=r"is an encoder without a head.*Fine-tune it first"):
        exported.task_network(open_encoder(lone), None)
    for number, (task, message) in enumerate(
        (
            ({"kind": "poetry"}, "is of the task 'poetry', which this swinmim does not know.* It knows classify"),
            ({"kind": "classify"}, "does not list the classes"),
            ({"kind": "classify", "classes": ["a", "b"]}, "is another one than its task describes"),
            (None, "is an encoder with a head, and does not say what that answers"),
        )
    ):
        folder = made_task_model(tmp_path / str(number), nn.Conv2d(32, 2, 1), task=task)
        with pytest.raises(CheckpointError, match=message):
            exported.task_network(open_encoder(folder), None)


@torch.no_grad()
def test_settings_are_those_that_the_folder_records(tmp_path):
    """Also where the recipe in the manifest says nothing of them."""
    task = made_task("segment", decoder="segformer")
    network = TaskModel(made_encoder(), task).eval()
    save_task_model(network.encoder, tmp_path / "task", network.state_dict(), {"task": task.recorded()})
    (found,) = exported.task_network(open_encoder(tmp_path / "task"), None).module(IMAGES)
    torch.testing.assert_close(found, network(IMAGES), rtol=0, atol=1e-5)
