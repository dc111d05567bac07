"""What holds for every task: the protocol, its settings, and a model that survives its folder."""

import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from made_clips import provide_ffmpeg
from made_tasks import made_batch, made_encoder, made_module, made_task
from torch import nn

import finetune.config
from finetune.config import FinetuneConfig
from finetune.model import TaskModel
from finetune.tasks.pooled import PooledTask
from finetune.tasks.registry import FROZEN, TASKS
from swinmim.checkpoint.encoder import load_encoder, load_manifest, save_encoder
from swinmim.checkpoint.task_model import load_head, save_task_model
from swinmim.composition import check
from swinmim.config import CONF_DIR
from swinmim.door import STARTED
from swinmim.errors import ConfigError

FILES = {path.stem: yaml.safe_load(path.read_text())["kind"] for path in sorted((CONF_DIR / "task").glob("*.yaml"))}
TRAINED = [name for name, kind in FILES.items() if kind in TASKS]
POOLED = [name for name in TRAINED if issubclass(TASKS[FILES[name]], PooledTask)]
CLASSES = ("cat", "dog", "owl")


@pytest.fixture(autouse=True)
def started(monkeypatch):
    monkeypatch.setenv(STARTED, "2026-01-01_00-00-00")


def compose(*overrides):
    return check("finetune", FinetuneConfig, ["ckpt=x", "data.path=x", *overrides])


def views(task):
    if task.needs == "clip":
        provide_ffmpeg()
    return task.views((32, 32))


def test_every_kind_has_a_file():
    assert {*TASKS, *FROZEN} <= set(FILES)
    assert not TASKS.keys() & FROZEN.keys()


@pytest.mark.parametrize("name", FILES)
def test_settings_are_those_of_the_kind(name):
    config = compose(f"task={name}")
    assert type(config.task) is (TASKS | FROZEN)[config.task.kind].Settings
    assert name.startswith(config.task.kind)


def test_a_key_of_another_kind_is_answered_with_the_kinds_own():
    with pytest.raises(ConfigError, match=r"unknown key 'task\.mixup'.*threshold") as caught:
        compose("task=multilabel", "task.mixup=0.3")
    assert "cutmix" not in str(caught.value)


def test_the_kind_decides_over_the_file():
    with pytest.raises(ConfigError) as caught:
        compose("task=classify", "task.kind=multilabel")
    text = str(caught.value)
    assert "unknown key 'task.cutmix'. Legal keys: kind, crop_scale" in text
    assert "task.threshold: a value is required" in text
    assert "task.multilabel" not in text


def test_an_unknown_kind_lists_the_kinds():
    with pytest.raises(
        ConfigError, match=r"task\.kind: unknown 'classfy'\. Did you mean 'classify'\? Known: classify, .*mul"
    ):
        compose("task.kind=classfy")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("task.crop_ratio=0",), r"task: crop_ratio must lie in \(0, 1\], got 0"),
        (("task.crop_mode=border",), r"task\.crop_mode: Input should be 'center' or 'squash'; got 'border'"),
        (
            ("task.randaug=rand-m9-mstdx",),
            r"task: randaug is timm's name of a policy.*got 'rand-m9-mstdx'.*null for none",
        ),
        (("task.randaug=rand-m11",), "randaug is timm's name"),
        (("task.randaug=augmix-m3",), "randaug is timm's name"),
        (("task.randaug_ops=2",), r"unknown key 'task\.randaug_ops'\. Did you mean 'task\.randaug'"),
        (("task=multilabel", "task.threshold=1.0"), "task: threshold is a probability between 0 and 1, got 1.0"),
        (
            ("task=multilabel", "task.pos_weight=heavy"),
            r"task\.pos_weight: Input should be 'none' or 'auto'; got 'heavy'",
        ),
        (("task=segment", "task.width=20"), r"task\.width: Input should be a multiple of 8; got 20"),
        (("task=segment", "task.overlap=1"), r"task\.overlap: Input should be less than 1; got 1"),
        (("task=segment", "task.decoder=unet"), r"task\.decoder: Input should be 'upernet' or 'segformer'; got 'unet'"),
        (
            ("task=probe", "resume=run"),
            r"task=probe measures the encoder as it is: there is nothing to resume from\. Rem",
        ),
        (("task=knn", "strategy=ddp"), r"in one process on one device.*Take strategy=single and trainer\.devices=1"),
        (("task=knn", "trainer.devices=2"), r"in one process on one device"),
        (("task=probe", "compile=true"), r"compile is for training steps\. Add compile=false"),
        (("task=probe", "allow_drift=[seed]"), r"nothing is resumed, so allow_drift has no effect"),
        (("task=probe", "global_batch_size=1"), r"batch norm: global_batch_size is at least 2, got 1"),
        (("task=probe", "task.held_out=1"), r"task\.held_out: Input should be less than 1"),
        (("task=probe", "task.heads=[mlp]"), r"task\.heads\.0: Input should be 'linear' or 'attentive'; got 'mlp'"),
        (("task.class_weights=heavy",), r"task\.class_weights: Input should be 'none' or 'auto'; got 'heavy'"),
        (("callbacks.ema_decay=1",), r"callbacks\.ema_decay: Input should be less than 1"),
        (
            ("callbacks.ema_decay=0.9", "strategy=deepspeed_zero3"),
            r"ema_decay does not work under ZeRO-3: no rank holds the whole weights.*take strategy=ddp",
        ),
        (("task=multilabel", "data.labels_per_class=3"), "which task=multilabel does not have. Set it to null"),
    ],
)
def test_wrong_settings_say_where(overrides, message):
    with pytest.raises(ConfigError, match=message):
        compose(*overrides)


@pytest.mark.slow
def test_tasks_are_imported_without_what_they_need_at_work():
    heavy = {"torch", "lightning", "torchmetrics", "torchvision", "timm", "wandb"}
    code = f"import sys, {finetune.config.__name__}; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", TRAINED)
def test_a_task_model_survives_its_folder(tmp_path, name):
    task = made_task(name, CLASSES)
    model = TaskModel(made_encoder(), task).eval()
    folder = save_task_model(model.encoder, tmp_path / "encoder", model.state_dict(), {"task": task.describe()})
    again = TaskModel(load_encoder(folder), task).eval()
    load_head(folder, again.head)
    images = made_module(task).prepare(made_batch(task, views(task)[0]))
    torch.testing.assert_close(again(images), model(images), rtol=0, atol=0)
    assert {n.split(".")[0] for n in model.state_dict()} == {"encoder", "head"}


@pytest.mark.parametrize("name", POOLED)
@pytest.mark.parametrize("changed", [{}, {"crop_ratio": 0.7}, {"crop_mode": "squash"}], ids=str)
def test_the_manifest_tells_the_view_of_evaluation(tmp_path, name, changed):
    """So that timm and transformers see what the weights were judged on."""
    task = made_task(name, CLASSES, **changed)
    view = task.views((32, 32))[1]
    folder = save_encoder(made_encoder(), tmp_path / "encoder", {"evaluation": task.evaluation()})
    told = load_manifest(folder).evaluation
    assert (told.crop_pct, told.crop_mode, told.interpolation) == (view.crop_ratio, view.mode, "bicubic")


@pytest.mark.parametrize("name", TRAINED)
def test_the_hooks_agree(name):
    """What one hook gives, the next one takes; the metric that decides exists."""
    task = made_task(name, CLASSES)
    model = TaskModel(made_encoder(), task)
    training, evaluation = views(task)
    batch = made_batch(task, training)
    module = made_module(task)
    assert batch["image"].shape == (4, *getattr(training, "shape", (32, 32, 3)))
    images, mixed = task.mix(module.prepare(batch), batch)
    loss = task.loss(model.train()(images, *task.teach(mixed)), mixed)
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.ndim == 0
    metrics = nn.ModuleDict(task.metrics() | task.detailed_metrics())
    batch = made_batch(task, evaluation)
    with torch.no_grad():
        output = task.infer(model.eval(), module.prepare(batch))
    task.update(metrics, output, batch)
    values = {}
    for key in task.metrics():
        value = metrics[key].compute()
        values |= {f"val/{n}": float(v) for n, v in (value if isinstance(value, dict) else {key: value}).items()}
    assert task.monitor[0] in values
    assert task.verdict(values).startswith("validation ")
    assert task.verdict({}) == ""
    rows, truth = task.predict(output, batch), task.truth(batch)
    assert len(rows) == len(truth) == 4
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert truth[0].keys() <= rows[0].keys()
    goodness = task.goodness(output, batch)
    assert goodness is None or goodness.shape == (4,)
    picture = task.draw(np.zeros((40, 50, 3), np.uint8), rows[0])
    assert picture is None or picture.size >= (50, 40)


@pytest.mark.parametrize(("channels", "bits"), [(5, 8), (3, 16), (1, 16)])
def test_randaugment_of_other_channels_is_refused_with_settings_that_work(channels, bits):
    task = made_task("classify", channels=channels, bits=bits)
    with pytest.raises(ConfigError, match=rf"{channels} of {bits}\. Add task\.randaug=null"):
        task.views((32, 32))
    made_task("classify", channels=channels, bits=bits, randaug=None).views((32, 32))
    made_task("classify", channels=1).views((32, 32))
