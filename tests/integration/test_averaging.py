"""Runs with an average of the weights: what is validated, saved and resumed; and the images that were hardest."""

import csv
import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from swinmim.checkpoint import io
from swinmim.errors import ConfigError
from swinmim.training.callbacks.averaging import KEY

pytestmark = pytest.mark.slow
SMALL = (
    "ckpt=null",
    "model=swinv2_demo",
    "model.embed_dim=16",
    "model.head_dim=8",
    "global_batch_size=20",
    "resolution=32",
)
SMALL += ("batch_size=10", "data.labels_per_class=4", "data.val_ratio=0.1", "optim.base_lr=5e-2")
AVERAGED = (*SMALL, "callbacks.ema_decay=0.5", "callbacks.checkpoint.keep_last=9", "callbacks.checkpoint.every_steps=1")


def state(run, step):
    return torch.load(run / "checkpoints" / f"step_{step:08d}" / io.STATE, weights_only=True)


def test_the_average_is_saved_validated_and_resumed_exactly(tmp_path, run_finetune):
    whole, part = tmp_path / "whole", tmp_path / "part"
    metrics = run_finetune(whole, *AVERAGED, "trainer.max_epochs=3")
    states = [state(whole, step) for step in range(1, 7)]
    name = "network.head.weight"
    average = states[0]["state_dict"][name]
    for step in states:
        average = average if step is states[0] else 0.5 * average + 0.5 * step["state_dict"][name]
        torch.testing.assert_close(step[KEY][f"module.{name}"], average)
    assert not torch.equal(average, states[-1]["state_dict"][name])
    folder = load_file(whole / "encoder" / "model.safetensors")
    torch.testing.assert_close(folder["head.fc.weight"], average)

    run_finetune(part, *AVERAGED, "trainer.max_epochs=3", f"resume={whole / 'checkpoints' / 'step_00000003'}")
    again = load_file(part / "encoder" / "model.safetensors")
    assert all(torch.equal(folder[key], again[key]) for key in folder)
    resumed = state(part, 6)
    for key, value in states[-1]["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key])
    assert (part / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    assert 0 <= metrics["val/top1"] <= 1

    with open(whole / "hard_examples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "truth", "prediction", "probability", "goodness"]
    assert len(rows) == 16
    goodness = [float(row["goodness"]) for row in rows]
    assert goodness == sorted(goodness)
    assert rows[0]["truth"] != rows[0]["prediction"]
    with Image.open(whole / "hard_examples.png") as picture:
        assert picture.width > 4 * 160


def test_pretraining_is_validated_drawn_saved_and_resumed_with_one(tmp_path, run_pretrain, read_losses):
    options = ("callbacks.ema_decay=0.5", "callbacks.checkpoint.keep_last=99", "callbacks.checkpoint.every_steps=1")
    options += ("data.val_ratio=0.2", "callbacks.reconstructions.every_epochs=1")
    whole, part = tmp_path / "whole", tmp_path / "part"
    run_pretrain(tmp_path / "plain", *options, "callbacks.ema_decay=null")
    metrics = run_pretrain(whole, *options)
    assert read_losses(whole) == read_losses(tmp_path / "plain")
    run_pretrain(part, *options, f"resume={whole / 'checkpoints' / 'step_00000003'}")
    folder, again = (load_file(run / "encoder" / "model.safetensors") for run in (whole, part))
    last = state(whole, 8)
    name = "layers.0.blocks.0.attn.qkv.weight"
    assert torch.equal(folder[name], last[KEY][f"module.network.encoder.{name}"])
    assert not torch.equal(folder[name], last["state_dict"][f"network.encoder.{name}"])
    assert all(torch.equal(folder[key], again[key]) for key in folder)
    plain = json.loads((tmp_path / "plain" / "metrics.json").read_text())
    assert metrics["val/recon_loss"] != plain["val/recon_loss"]
    pictures = sorted(path.name for path in (whole / "reconstructions").glob("*.png"))
    assert pictures == ["step_00000004.png", "step_00000008.png"]


def test_a_run_without_an_average_is_not_resumed_with_one_unnoticed(tmp_path, run_finetune):
    run_finetune(tmp_path / "run", *SMALL, "trainer.max_epochs=1")
    with pytest.raises(ConfigError, match=r"callbacks\.ema_decay: null -> 0\.5"):
        run_finetune(tmp_path / "run", *SMALL, "trainer.max_epochs=1", "callbacks.ema_decay=0.5", "resume=auto")
    more = ("trainer.max_epochs=2", "callbacks.ema_decay=0.5", "resume=auto")
    run_finetune(tmp_path / "run", *SMALL, *more, "allow_drift=[trainer.max_epochs,callbacks.ema_decay]")
    assert KEY in state(tmp_path / "run", 4)


@pytest.mark.parametrize(("stage", "word"), [(1, "lose the average"), (2, "lose the average"), (3, "no rank holds")])
def test_zero_is_refused(tmp_path, run_finetune, stage, word):
    with pytest.raises(ConfigError, match=rf"ema_decay does not work under ZeRO-{stage}: .*{word}.*take strategy=ddp"):
        run_finetune(tmp_path / "run", *SMALL, "callbacks.ema_decay=0.5", f"strategy=deepspeed_zero{stage}")
