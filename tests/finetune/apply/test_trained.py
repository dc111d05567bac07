"""A task model comes back from its folder alone: its network, and the task with its settings."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from made_tasks import made_encoder, made_module, made_task

from finetune.apply.trained import open_trained
from finetune.model import TaskModel
from finetune.tasks.registry import TASKS
from swinmim.checkpoint.encoder import save_encoder
from swinmim.checkpoint.manifest import MANIFEST_NAME
from swinmim.checkpoint.task_model import save_task_model
from swinmim.config import CONF_DIR
from swinmim.errors import CheckpointError, ConfigError

FILES = [
    path.stem
    for path in sorted((CONF_DIR / "task").glob("*.yaml"))
    if yaml.safe_load(path.read_text())["kind"] in TASKS
]
"""Of tasks that train."""
CLASSES = ("cat", "dog", "owl")
GOLDEN = Path(__file__).parents[2] / "golden" / "classify_folder"


def saved(folder, task, **manifest):
    model = TaskModel(made_encoder(), task).eval()
    save_task_model(model.encoder, folder, model.state_dict(), {"task": task.recorded(), **manifest})
    return model


def edited(folder, **changes):
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize("name", FILES)
def test_a_task_is_what_it_was(tmp_path, name):
    task = made_task(name, CLASSES)
    model = saved(tmp_path / "encoder", task)
    again = open_trained(tmp_path / "encoder")
    assert type(again.task) is type(task)
    assert again.task.settings == task.settings
    assert again.task.subject == task.subject
    network = again.network()
    assert network.state_dict().keys() == model.state_dict().keys()
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], rtol=0, atol=0)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert again.run_settings() == {}


def test_facts_and_bits_are_kept(tmp_path):
    task = made_task("multilabel", CLASSES, facts={"pos_weight": [1.0, 2.0, 3.0]}, bits=16, randaug=None)
    saved(tmp_path / "encoder", task)
    again = open_trained(tmp_path / "encoder").task
    assert (again.subject.bits, again.subject.facts) == (16, {"pos_weight": [1.0, 2.0, 3.0]})


def test_a_module_records_its_task():
    module = made_module(made_task("classify_light", CLASSES))
    record = module.task.recorded()
    assert record["settings"]["crop_scale"] == (0.4, 1.0)
    assert record["classes"] == list(CLASSES)


def test_an_earlier_folder_opens_with_its_view():
    """It says no more than kind and classes."""
    task = open_trained(GOLDEN).task
    assert (task.kind, task.subject.classes, task.settings.crop_ratio) == ("classify", ("a", "b", "c"), 1.0)


def test_an_earlier_folder_is_believed_in_its_recipe(tmp_path):
    task = made_task("multilabel", CLASSES)
    settings = task.recorded()["settings"] | {"threshold": 0.3, "gone_since": 1}
    saved(tmp_path / "encoder", task, recipe={"task": settings})
    edited(tmp_path / "encoder", task=task.describe())
    assert open_trained(tmp_path / "encoder").task.settings.threshold == 0.3


def test_an_encoder_without_a_head(tmp_path):
    save_encoder(made_encoder(), tmp_path / "encoder")
    with pytest.raises(CheckpointError, match=r"encoder without a head: it gives features.*Fine-tune it first"):
        open_trained(tmp_path / "encoder")


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "classfy", "classes": []}, "'classfy', which this swinmim does not know. Did you mean 'classify'"),
        ({"kind": ["x"], "classes": []}, "does not know"),
        ({"kind": "classify", "classes": "ab"}, "does not list the classes"),
        ({"kind": "classify", "classes": [1, 2]}, "does not list the classes"),
        ({"kind": "classify", "classes": ["a"], "bits": 12}, "facts and bits of its task are damaged"),
        (
            {"kind": "classify", "classes": ["a"], "settings": {"mixup": -1}},
            "settings of its task cannot be used: .*mixup.*greater than",
        ),
        ({"kind": "classify", "classes": ["a"], "settings": {"mixup": "${oc.env:HOME}"}}, "cannot be used"),
    ],
)
def test_records_of_others_are_data(tmp_path, task, message):
    saved(tmp_path / "encoder", made_task("classify", CLASSES))
    edited(tmp_path / "encoder", task=task)
    with pytest.raises(CheckpointError, match=message):
        open_trained(tmp_path / "encoder")


def test_a_head_of_other_classes(tmp_path):
    task = made_task("classify", CLASSES)
    saved(tmp_path / "encoder", task)
    edited(tmp_path / "encoder", task=task.recorded() | {"classes": ["cat", "dog"]})
    with pytest.raises(CheckpointError, match="another one than its task describes"):
        open_trained(tmp_path / "encoder").network()


def test_another_resolution(tmp_path):
    saved(tmp_path / "encoder", made_task("classify", CLASSES))
    trained = open_trained(tmp_path / "encoder")
    assert trained.network(resolution=64).encoder.resolution == (64, 64)
    with pytest.raises(ConfigError, match="Nearest legal resolutions"):
        trained.shape(resolution=37)


def test_the_settings_of_the_run_lie_beside_a_checkpoint(tmp_path):
    step = tmp_path / "checkpoints" / "step_1"
    saved(step / "encoder", made_task("classify", CLASSES))
    (step / "config.json").write_text('{"seed": 5}')
    (tmp_path / "encoder").symlink_to(step / "encoder")
    assert open_trained(tmp_path).run_settings() == {"seed": 5}
    shutil.copytree(tmp_path / "encoder", tmp_path / "taken")
    assert open_trained(tmp_path / "taken").run_settings() == {}


def test_every_kind_can_be_opened():
    assert {made_task(name, CLASSES).kind for name in FILES} == set(TASKS)
