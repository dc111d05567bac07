"""What a run of fine-tuning printed, the commands that apply its model say again, to the last digit."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import call
from PIL import Image
from runs import CPU

import swinmim
from data.codecs.decode import decode
from data.open import labelled_parts
from finetune.apply import evaluation
from finetune.apply.config import EvaluateConfig
from finetune.config import FinetuneConfig
from finetune.module import TaskModule
from swinmim.composition import check
from swinmim.errors import ConfigError, DataError

pytestmark = pytest.mark.slow
HERE = ("trainer.accelerator=cpu",)
RUN = (
    "ckpt=null",
    "model=swinv2_demo",
    "model.embed_dim=16",
    "model.head_dim=8",
    "global_batch_size=20",
    "batch_size=20",
    "data.labels_per_class=4",
    "data.val_ratio=0.1",
)


@pytest.fixture
def finetuned(tmp_path, run_finetune):
    """A run, and what it measured at its end."""
    outputs = []
    original = TaskModule.judge

    def judge(module, batch):
        output = original(module, batch)
        outputs.append((batch["index"], output.float().softmax(1)))
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TaskModule, "judge", judge)
        metrics = run_finetune(tmp_path / "run", *RUN)
    half = len(outputs) // 2  # of the last validation
    return tmp_path / "run", metrics, outputs[half:]


def evaluate(run, out, *overrides):
    out.mkdir()
    config = check("evaluate", EvaluateConfig, [f"ckpt={run}", f"output_dir={out}", *HERE, *overrides])
    return evaluation.run(config, out)


def test_the_number_is_the_runs_to_the_last_digit_on_one_and_two_processes(tmp_path, finetuned):
    run, metrics, _ = finetuned
    rows = evaluate(run, tmp_path / "one", "resolution=[32,64]")
    assert [row["resolution"] for row in rows] == [[32, 32], [64, 64]]
    assert [row["windows"] for row in rows] == [[[4, 4], [4, 4]], [[8, 8], [8, 8]]]
    names = ("top1", "top5", "loss")
    assert {name: rows[1][name] for name in names} == {name: metrics[f"val/{name}"] for name in names}
    assert rows[0]["loss"] != rows[1]["loss"]
    root = Path(__file__).parents[2] / "src"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = call([*launch, "-m", "finetune.evaluate", f"ckpt={run}", f"output_dir={tmp_path / 'two'}", *HERE], root)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "two" / "results.json").read_text())["rows"]
    assert {name: row[name] for name in ("top1", "top5")} == {name: metrics[f"val/{name}"] for name in ("top1", "top5")}
    assert f"{row['loss']:.4f}" == f"{metrics['val/loss']:.4f}"
    assert row["loss"] == pytest.approx(metrics["val/loss"], rel=1e-6)
    assert row["images"] == rows[1]["images"] == 180


def test_load_model_answers_as_the_run_did(finetuned):
    run, _, outputs = finetuned
    settings = json.loads((run / "checkpoints" / "last" / "config.json").read_text())
    overrides = [*RUN, *CPU, "experiment=demo_ft", f"data.cache_dir={settings['data']['cache_dir']}", "output_dir=x"]
    config = check("finetune", FinetuneConfig, overrides)
    _, part = labelled_parts(config.data, seed=0, channels=3, needs="label")
    model = swinmim.load_model(run)
    indices, probabilities = outputs[0]
    pixels = [decode(part.shards.read(index).data) for index in indices.tolist()]
    rows = model.predict(pixels)
    assert [row["class"] for row in rows] == [model.classes[best] for best in probabilities.argmax(1).tolist()]
    np.testing.assert_allclose(
        [row["probability"] for row in rows], probabilities.max(1).values.numpy(), rtol=1e-5, atol=1e-6
    )


def test_details_and_the_worst(tmp_path, finetuned):
    run, metrics, _ = finetuned
    evaluate(run, tmp_path / "out", "worst=5")
    folder = tmp_path / "out" / "64"
    with (folder / "confusion.csv").open(newline="") as file:
        counts = np.array([[int(row[str(n)]) for n in range(10)] for row in csv.DictReader(file)])
    assert counts.sum() == 180
    assert np.trace(counts) / 180 == pytest.approx(metrics["val/top1"])
    with (folder / "per_class.csv").open(newline="") as file:
        assert [int(row["images"]) for row in csv.DictReader(file)] == counts.sum(1).tolist()
    with (folder / "worst.csv").open(newline="") as file:
        worst = list(csv.DictReader(file))
    assert len(worst) == 5
    goodness = [float(row["goodness"]) for row in worst]
    assert goodness == sorted(goodness)
    assert goodness[-1] < -metrics["val/loss"]
    for name in ("confusion.png", "worst.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100


def test_images_of_others(tmp_path, finetuned, caplog):
    run, _, _ = finetuned
    rng = np.random.default_rng(0)
    for name in ("0/a.png", "1/b.png", "1/c.png"):
        path = tmp_path / "some" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    (row,) = evaluate(run, tmp_path / "some_out", f"data.path={tmp_path / 'some'}", cache)
    assert row["images"] == 3
    evaluate(run, tmp_path / "own_out", "data.path=builtin:digits", cache)
    assert "The model was trained on images of this very set" in caplog.text
    (tmp_path / "some" / "eleven").mkdir()
    shutil.copy(tmp_path / "some" / "1" / "b.png", tmp_path / "some" / "eleven" / "b.png")
    with pytest.raises(DataError, match="has eleven, which training lacks"):
        evaluate(run, tmp_path / "x", f"data.path={tmp_path / 'some'}", cache)
    (tmp_path / "list.csv").write_text("path,label\nsome/0/a.png,cat\nsome/1/b.png,dog\n")
    with pytest.raises(DataError, match=r"The model knows the classes 0, 1, .*\(10 in all\).*has cat, dog"):
        evaluate(run, tmp_path / "y", f"data.path={tmp_path / 'list.csv'}", cache)
    shutil.copytree(run / "encoder", tmp_path / "taken")
    with pytest.raises(ConfigError, match=r"not there any more to say what it validated on\. Add data\.path=LABELLED"):
        evaluate(tmp_path / "taken", tmp_path / "z")
