"""Whole runs under compile=true: two epochs, validation, pictures, checkpoints, resume and export.

Most run without Inductor (see `compile_cheaply`), which costs minutes and changes neither shapes nor guards.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import compile_cheaply
import pytest
import timm
import torch
from made_images import make_slopes
from safetensors.torch import load_file
from torch._dynamo.utils import counters

import swinmim
from data.write.__main__ import main as write
from pretrain import prepare
from pretrain.config import PretrainConfig
from pretrain.run import run as pretrain
from swinmim.checkpoint import io
from swinmim.composition import check
from swinmim.export.timm_folder import export_timm
from swinmim.models.swinv2 import SwinV2

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.slow,
    # Tracing looks at .grad of every input and hides the warning by a filter that "error" overrules.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]
heavy = pytest.mark.reliability

ODD = ("data.val_ratio=0.25", "callbacks.reconstructions.every_epochs=1", "callbacks.checkpoint.every_steps=1")
"""40 held-out images in batches of 32, two of them in pictures: three sizes of batch beside that of training."""
SMALL = ("global_batch_size=20", "batch_size=20", "data.val_ratio=0.26", "data.labels_per_class=4")
"""Two steps an epoch, and a last validation batch of another size."""


@pytest.fixture
def cheap(monkeypatch):
    """Compile without Inductor, in this process."""
    for function in (SwinV2.compile_blocks, prepare.compiled_prepare_step):
        monkeypatch.setattr(function, "__defaults__", function.__defaults__)
    compile_cheaply.skip_inductor()


def sets(root: Path, channels: int) -> Path:
    """160 images of some channels in two classes, packed."""
    make_slopes(root / "in", 160, ("horizontal", "vertical"), channels)
    options = ["--channels", str(channels), "--resize", "none", "--workers", "1"]
    assert write(["make", str(root / "in"), str(root / "set"), *options]) == 0
    return root / "set"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "encoder" / "model.safetensors")


def said(text: str) -> int:
    """Graphs that the log tells of, once and for all."""
    (graphs,) = re.findall(r"compile: (\d+) graphs in \d+\.\d s", text)
    assert "more graphs" not in text
    return int(graphs)


def check_the_rest(start, folder: Path, options: tuple[str, ...], caplog, read_losses, graphs: int, step: int) -> None:
    """Run compiled; it equals the run that is not, says its graphs once, resumes exactly, and can be exported."""
    whole, part = folder / "whole", folder / "part"
    start(folder / "plain", *options)
    with caplog.at_level("INFO"):
        metrics = start(whole, *options, "compile=true", "callbacks.checkpoint.keep_last=9")
    assert said(caplog.text) == graphs
    assert not counters["graph_break"]
    bf16 = "trainer.precision=bf16-mixed" in options
    assert read_losses(whole) == pytest.approx(read_losses(folder / "plain"), rel=2e-2 if bf16 else 1e-4)
    for earlier in range(1, step + 1):  # the best one is among them
        source = io.step_folder(whole / "checkpoints", earlier)
        shutil.copytree(source, part / "checkpoints" / source.name)
    caplog.clear()
    with caplog.at_level("INFO"):
        again = start(part, *options, "compile=true", "resume=auto")
    assert said(caplog.text) == graphs
    last = [{name: m[name] for name in m if not name.startswith("best/")} for m in (again, metrics)]
    assert last[0] == last[1]  # the best is one of the checkpoints that lie there
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(part)[name]), name
    assert json.loads((whole / "metrics.json").read_text()) == metrics
    exported = export_timm(whole, folder / "timm")
    model = timm.create_model(f"local-dir:{exported}", pretrained=True).eval()
    encoder = swinmim.load_encoder(whole).eval()
    images = torch.randn(2, encoder.in_chans, *encoder.resolution)
    with torch.no_grad():
        found = model.forward_head(model.forward_features(images), pre_logits=True)
        assert torch.allclose(found, encoder.pool(images), atol=1e-4)


PRETRAIN = {
    "fp32": (("drop_path=0.1",), 4),
    "full recompute, sdpa": (("recompute=full", "attention=sdpa", "drop_path=0.1"), 4),
    "selective recompute, accumulation": (("recompute=selective", "batch_size=8"), 4),
    "recompute by stage, bf16, reference": (
        ("recompute=[full,none]", "trainer.precision=bf16-mixed", "attention=reference"),
        4,
    ),
    "bf16, chunks, local norm": (
        ("trainer.precision=bf16-mixed", "attention=chunked", "chunk=4", "mim.target=local_norm"),
        4,
    ),
    "wide images": (("resolution=[32,64]", "drop_path=0.1"), 4),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[heavy] if number else []) for number, name in enumerate(PRETRAIN)]
)
def test_pretraining(tmp_path, run_pretrain, read_losses, caplog, cheap, name):
    options, graphs = PRETRAIN[name]
    check_the_rest(run_pretrain, tmp_path, (*ODD, *options), caplog, read_losses, graphs, step=2)
    for run in ("plain", "whole"):
        assert len(list((tmp_path / run / "reconstructions").glob("*.png"))) == 2


@heavy
@pytest.mark.parametrize("channels", [1, 5])
def test_pretraining_of_other_channels(tmp_path, run_pretrain, read_losses, caplog, cheap, channels):
    options = (*ODD, f"data.path={sets(tmp_path, channels)}", f"model.in_chans={channels}")
    check_the_rest(run_pretrain, tmp_path, options, caplog, read_losses, graphs=4, step=2)


FINETUNE = {
    "the recipe": (("task=classify", "task.flip=true", "drop_path=0.1", "optim.layer_decay=0.75"), 3),
    "bf16, full recompute": (("trainer.precision=bf16-mixed", "recompute=full", "batch_size=10"), 3),
    "sdpa, selective": (("attention=sdpa", "recompute=selective", "drop_path=0.2"), 3),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[heavy] if number else []) for number, name in enumerate(FINETUNE)]
)
def test_fine_tuning(tmp_path, run_finetune, read_losses, caplog, cheap, name):
    options, graphs = FINETUNE[name]
    scratch = ("ckpt=null", "model=swinv2_demo", "model.embed_dim=32", "model.head_dim=16", "trainer.log_every_steps=1")
    options = (*SMALL, *scratch, "callbacks.checkpoint.every_steps=1", *options)
    check_the_rest(run_finetune, tmp_path, options, caplog, read_losses, graphs, step=3)


@heavy
@pytest.mark.parametrize("recipe", ["swinv2_t_mim", "swinv2_h_mim"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_recipes_at_toy_size(tmp_path, cache, caplog, cheap, recipe, precision):
    toy = (f"experiment={recipe}", "debug=toy", "compile=true", f"data.cache_dir={cache}")
    device = ("trainer.accelerator=cpu", f"trainer.precision={precision}")
    config = check("pretrain", PretrainConfig, [*toy, *device, f"output_dir={tmp_path / 'run'}"])
    with caplog.at_level("INFO"):
        metrics = pretrain(config, tmp_path / "run")
    assert said(caplog.text) == (7 if recipe == "swinv2_t_mim" else 8)
    assert "val/recon_loss" in metrics


@heavy
@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("pretrain", ("recompute=full", "mim.target=local_norm", *ODD)),
        ("pretrain", ("trainer.precision=bf16-mixed", "recompute=selective", "attention=sdpa", *ODD)),
        ("finetune", ("task=classify", "drop_path=0.1")),
    ],
)
def test_two_processes(tmp_path, tiny_arguments, cache, command, options):
    arguments = ["strategy=ddp", "trainer.devices=2", "compile=true", *options]
    if command == "pretrain":
        arguments = [*tiny_arguments, "batch_size=16", *arguments]
    else:
        model = ["ckpt=null", "model=swinv2_demo", "model.embed_dim=32", "model.head_dim=16"]
        small = ["experiment=demo_ft", *model, *SMALL, "batch_size=10", "trainer.max_epochs=2", "data.num_workers=0"]
        arguments = [*small, f"data.cache_dir={cache}", "trainer.accelerator=cpu", *arguments]
    result = subprocess.run(
        [sys.executable, compile_cheaply.__file__, *arguments, f"output_dir={tmp_path / 'run'}"],
        env=os.environ | {"COMMAND": command},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    said(result.stdout + result.stderr)
    assert io.find_newest(tmp_path / "run" / "checkpoints") is not None


@heavy
def test_pretraining_with_inductor(tmp_path, run_pretrain, read_losses, caplog):
    options = (*ODD, "model.embed_dim=16", "model.head_dim=8")
    check_the_rest(run_pretrain, tmp_path, options, caplog, read_losses, graphs=4, step=2)


@heavy
def test_fine_tuning_with_inductor(tmp_path, run_finetune, read_losses, caplog):
    scratch = ("ckpt=null", "model=swinv2_demo", "model.embed_dim=16", "model.head_dim=8", "task=classify")
    options = (*SMALL, *scratch, "trainer.log_every_steps=1", "callbacks.checkpoint.every_steps=1")
    check_the_rest(run_finetune, tmp_path, options, caplog, read_losses, graphs=3, step=3)
