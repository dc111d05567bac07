"""From an encoder folder to a task model, at twice the resolution, and out to timm."""

import json
import runpy
import stat
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from made_images import make_slopes
from PIL import Image
from safetensors.torch import load_file
from transformers import Swinv2Config, Swinv2ForImageClassification

import swinmim
from data.sources.find import find_source
from data.write.writer import WriteOptions, write_shards
from finetune.module import TaskModule
from finetune.tasks.classify import Classify
from swinmim.checkpoint.encoder import load_manifest
from swinmim.checkpoint.io import find
from swinmim.checkpoint.task_model import load_head
from swinmim.errors import CheckpointError, ConfigError, DataError, DivergedError
from swinmim.export.timm_folder import export_timm

pytestmark = pytest.mark.slow
SMALL = ("global_batch_size=20", "batch_size=20", "data.labels_per_class=4", "data.val_ratio=0.1")


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory):
    torch.manual_seed(0)
    encoder = swinmim.create_encoder("swinv2_demo", resolution=32, embed_dim=32, head_dim=16)
    for parameter in encoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    manifest = {"mean": (0.3, 0.3, 0.3), "std": (0.35, 0.35, 0.35)}
    return swinmim.save_encoder(encoder, tmp_path_factory.mktemp("encoder") / "folder", manifest)


def test_fine_tuning_grows_the_window_learns_and_leaves_a_timm_model(tmp_path, run_finetune, encoder_folder):
    metrics = run_finetune(
        tmp_path / "run",
        f"ckpt={encoder_folder}",
        *SMALL,
        "data.labels_per_class=20",
        "trainer.max_epochs=6",
        "optim.base_lr=5e-2",
    )
    assert metrics["val/top1"] > 0.25  # ten classes
    assert metrics["val/top5"] >= metrics["val/top1"]
    manifest = json.loads((tmp_path / "run" / "encoder" / "manifest.json").read_text())
    assert manifest["resolution"] == [64, 64]
    assert manifest["windows"] == [[8, 8], [8, 8]]
    assert manifest["pretrained_windows"] == [[4, 4], [4, 4]]
    assert manifest["mean"] == [0.3, 0.3, 0.3]  # the encoder's normalisation, not the set's
    assert {key: manifest["task"][key] for key in ("kind", "classes")} == {
        "kind": "classify",
        "classes": [str(digit) for digit in range(10)],
    }
    assert manifest["parent"] == str(encoder_folder)
    assert manifest["evaluation"] == {"crop_pct": 1.0, "crop_mode": "center", "interpolation": "bicubic"}
    assert len({stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "run" / "encoder").iterdir()}) == 1

    exported = export_timm(tmp_path / "run", tmp_path / "timm")
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    encoder, head = swinmim.load_encoder(tmp_path / "run").eval(), torch.nn.Linear(64, 10)
    load_head(exported, head)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(images), head(encoder.pool(images)), atol=1e-5)


def test_published_weights_are_fine_tuned_in_place(tmp_path, run_finetune, caplog):
    config = Swinv2Config(
        image_size=32, window_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 4], pretrained_window_sizes=[2, 2]
    )
    Swinv2ForImageClassification(config).save_pretrained(tmp_path / "hf")
    processor = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.3, 0.2, 0.1]}
    (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps(processor))
    with caplog.at_level("INFO"):
        run_finetune(tmp_path / "run", f"ckpt={tmp_path / 'hf'}", *SMALL, "trainer.max_epochs=1")
    assert "loaded 43/43" in caplog.text
    assert "classifier: kept, 2 classes" in caplog.text
    manifest = load_manifest(tmp_path / "run")
    assert manifest.windows == ((4, 4), (4, 4))  # a sixteenth of the side, as in the folder
    assert manifest.pretrained_windows == ((2, 2), (2, 2))
    assert (manifest.mean, manifest.std) == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
    assert manifest.parent == str(tmp_path / "hf")


def test_best_and_last_are_kept_and_told(tmp_path, run_finetune, encoder_folder, monkeypatch, caplog):
    scores = iter((0.2, 0.5, 0.4))
    original = Classify.metrics

    def scripted(task):
        metrics = original(task)
        metrics["top1"].compute = lambda: torch.tensor(next(scores))
        return metrics

    monkeypatch.setattr(Classify, "metrics", scripted)
    run, checkpoints = tmp_path / "run", tmp_path / "run" / "checkpoints"
    with caplog.at_level("INFO"):
        metrics = run_finetune(run, f"ckpt={encoder_folder}", *SMALL, "trainer.max_epochs=3")
    assert (checkpoints / "last").resolve().name == "step_00000006"
    assert (checkpoints / "best").resolve().name == "step_00000004"
    assert (run / "encoder").resolve() == (checkpoints / "last" / "encoder").resolve()
    assert len(list(checkpoints.glob("step_*"))) == 2
    for which, epoch, top1 in (("best", 2, 0.5), ("last", 3, 0.4)):
        measured = load_manifest(checkpoints / which).metrics
        assert (measured["epochs"], measured["val/top1"]) == (epoch, pytest.approx(top1))
        assert not any(name.startswith("best/") for name in measured)
    assert metrics["val/top1"] == pytest.approx(0.4)
    assert (metrics["best/top1"], metrics["best/epoch"]) == (pytest.approx(0.5), 2)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    lines = caplog.text.splitlines()
    assert len([line for line in lines if "validation, epoch " in line]) == 3
    verdict = caplog.records[-1].getMessage().splitlines()
    assert verdict == [
        f"last      epoch 3, validation top-1 40.00 %, {run / 'encoder'}",
        f"best      epoch 2, validation top-1 50.00 %, {checkpoints / 'best' / 'encoder'}",
        f"next      python -m finetune.evaluate ckpt={run}",
        f"          python -m finetune.predict ckpt={run} data.path=IMAGES",
        f"          timm.create_model('local-dir:{run / 'encoder'}', pretrained=True)",
    ]


def test_weights_that_no_validation_saw_do_not_claim_its_metrics(tmp_path, run_finetune, encoder_folder):
    options = (*SMALL, "trainer.max_epochs=3", "trainer.val_every_epochs=2", "callbacks.checkpoint.keep_last=9")
    run_finetune(tmp_path / "run", f"ckpt={encoder_folder}", *options, "callbacks.checkpoint.every_steps=1")
    steps = {int(folder.name[5:]): load_manifest(folder).metrics for folder in (tmp_path / "run").glob("*/step_*")}
    assert {step for step, measured in steps.items() if "val/top1" in measured} == {4, 6}
    assert {step: measured["epochs"] for step, measured in steps.items()} == {step: step / 2 for step in range(1, 7)}


def test_a_monitor_that_the_task_does_not_measure_stops_the_run_before_a_step(
    tmp_path, run_finetune, encoder_folder, monkeypatch
):
    monkeypatch.setattr(Classify, "monitor", ("val/accuracy", "max"))
    with pytest.raises(
        ConfigError, match=r"maximal val/accuracy, which this run never logs.*val/top1, val/top5, val/los"
    ):
        run_finetune(tmp_path / "run", f"ckpt={encoder_folder}", *SMALL)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_full_recipe_with_mixing_and_resume_is_exact(tmp_path, run_finetune, encoder_folder):
    recipe = ("task=classify", "task.flip=true", "drop_path=0.1", "optim.layer_decay=0.75", f"ckpt={encoder_folder}")
    whole, part = tmp_path / "whole", tmp_path / "part"
    run_finetune(whole, *SMALL, *recipe, "callbacks.checkpoint.keep_last=9")
    run_finetune(part, *SMALL, *recipe, f"resume={whole / 'checkpoints' / 'step_00000002'}")
    with pytest.raises(ConfigError, match=r"optim.layer_decay: 0.75 -> 0.9"):
        run_finetune(part, *SMALL, *recipe, "optim.layer_decay=0.9", "resume=auto")
    first, second = (load_file(run / "encoder" / "model.safetensors") for run in (whole, part))
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_train_and_val_folders_are_found(tmp_path, run_finetune, encoder_folder):
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("val", 5)):
        for name in ("cats", "dogs"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    metrics = run_finetune(
        tmp_path / "run",
        f"ckpt={encoder_folder}",
        f"data.path={tmp_path / 'images'}",
        "data.labels_per_class=null",
        "global_batch_size=8",
        "batch_size=8",
        "trainer.max_epochs=2",
    )
    assert (10 * metrics["val/top1"]) % 1 == pytest.approx(0, abs=1e-5)  # ten validation images
    assert "val/top5" not in metrics


def test_folder_without_labels_is_refused(tmp_path, run_finetune, encoder_folder):
    (tmp_path / "flat").mkdir()
    for index in range(30):
        Image.new("RGB", (40, 40), (index, 0, 0)).save(tmp_path / "flat" / f"{index}.png")
    with pytest.raises(DataError, match="label"):
        run_finetune(tmp_path / "run", f"ckpt={encoder_folder}", f"data.path={tmp_path / 'flat'}", *SMALL)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (("resolution=52",), ConfigError, r"48|56|64"),
        (("ckpt=/nowhere",), CheckpointError, "/nowhere"),
        (("data.labels_per_class=500",), DataError, "Every class needs 500 samples"),
        (("global_batch_size=4000", "batch_size=4000"), DataError, "global batch must not be larger"),
    ],
)
def test_bad_input_stops_with_the_reason(tmp_path, run_finetune, encoder_folder, overrides, error, message):
    with pytest.raises(error, match=message):
        run_finetune(tmp_path / "run", f"ckpt={encoder_folder}", *SMALL, *overrides)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.fixture(scope="session")
def tagged(tmp_path_factory):
    """A shard set of 60 images with any number of three labels: which of the colour channels are bright."""
    root = tmp_path_factory.mktemp("tagged")
    rng = np.random.default_rng(0)
    rows = ["path,labels"]
    for index in range(60):
        bright = rng.random(3) < 0.5
        pixels = rng.integers(0, 60, (40, 40, 3)) + 180 * bright
        Image.fromarray(pixels.astype(np.uint8)).save(root / f"{index:02d}.png")
        rows.append(f"{index:02d}.png,{'|'.join(np.array(['red', 'green', 'blue'])[bright])}")
    (root / "list.csv").write_text("\n".join(rows))
    write_shards(find_source(str(root / "list.csv")), root / "set", WriteOptions(resize=None, workers=1))
    return root / "set"


def test_any_number_of_labels_is_learnt_resumed_exported_and_replayed(
    tmp_path, run_finetune, encoder_folder, tagged, monkeypatch, capsys
):
    recipe = ("task=multilabel", "task.pos_weight=auto", f"ckpt={encoder_folder}", f"data.path={tagged}")
    recipe += ("data.labels_per_class=null", "data.val_ratio=0.2", "global_batch_size=16", "batch_size=8")
    recipe += ("optim.base_lr=5e-2", "resolution=32", "task.crop_scale=[0.6,1]", "drop_path=0.1")
    whole, part = tmp_path / "whole", tmp_path / "part"
    metrics = run_finetune(whole, *recipe, "trainer.max_epochs=8", "callbacks.checkpoint.keep_last=99")
    assert metrics["val/map"] > 0.9
    assert metrics["val/f1_micro"] > 0.8
    manifest = json.loads((whole / "encoder" / "manifest.json").read_text())
    assert manifest["task"]["kind"] == "multilabel"
    assert manifest["task"]["classes"] == ["blue", "green", "red"]
    assert manifest["task"]["settings"]["threshold"] == 0.5
    assert len(manifest["task"]["facts"]["pos_weight"]) == 3
    best = json.loads((whole / "checkpoints" / "best" / "encoder" / "manifest.json").read_text())
    assert best["metrics"]["val/map"] >= metrics["val/map"]

    run_finetune(part, *recipe, "trainer.max_epochs=8", f"resume={find(whole / 'checkpoints' / 'step_00000012')}")
    first, second = (load_file(run / "encoder" / "model.safetensors") for run in (whole, part))
    assert all(torch.equal(first[name], second[name]) for name in first)

    model = timm.create_model(f"local-dir:{export_timm(whole, tmp_path / 'timm')}", pretrained=True).eval()
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 3)

    original = TaskModule.training_loss
    monkeypatch.setattr(TaskModule, "training_loss", lambda *arguments: original(*arguments) * float("nan"))
    with pytest.raises(DivergedError):
        run_finetune(tmp_path / "nan", *recipe, "callbacks.stability.max_nonfinite_steps=2", "trainer.max_epochs=3")
    monkeypatch.undo()
    (bundle,) = (tmp_path / "nan" / "replay").iterdir()
    assert json.loads((bundle / "replay.json").read_text())["facts"].keys() == {"pos_weight"}
    monkeypatch.setattr("sys.argv", ["replay", str(bundle)])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "replay.py"), run_name="__main__")
    assert "every value is finite here" in capsys.readouterr().out


def test_a_set_without_what_the_task_needs_is_refused(tmp_path, run_finetune, encoder_folder, tagged):
    recipe = (f"ckpt={encoder_folder}", *SMALL[:2], "data.labels_per_class=null")
    with pytest.raises(DataError, match=r"This task needs labels with each image; .* has none"):
        run_finetune(tmp_path / "run", *recipe, "task=multilabel", f"data.path={make_slopes(tmp_path / 'plain', 8)}")
    with pytest.raises(DataError, match=r"finetune needs labels; .* has none for some or all images"):
        run_finetune(tmp_path / "run", *recipe, f"data.path={tagged}")


def test_folder_that_is_no_encoder_is_refused(tmp_path, run_finetune):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("no weights here")
    with pytest.raises(CheckpointError, match="other"):
        run_finetune(tmp_path / "run", f"ckpt={tmp_path / 'other'}", *SMALL)


def test_a_diverged_run_can_be_replayed(tmp_path, run_finetune, encoder_folder, monkeypatch, capsys):
    original = TaskModule.training_loss
    monkeypatch.setattr(TaskModule, "training_loss", lambda *arguments: original(*arguments) * float("nan"))
    limit = "callbacks.stability.max_nonfinite_steps=2"
    with pytest.raises(DivergedError, match=r"python scripts/replay\.py"):
        run_finetune(tmp_path / "run", f"ckpt={encoder_folder}", *SMALL, limit, "trainer.max_epochs=3")
    monkeypatch.undo()
    (bundle,) = (tmp_path / "run" / "replay").iterdir()
    monkeypatch.setattr("sys.argv", ["replay", str(bundle)])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "replay.py"), run_name="__main__")
    assert "every value is finite here" in capsys.readouterr().out  # the fault was the test's
