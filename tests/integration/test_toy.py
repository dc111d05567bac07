"""Every recipe and every task of images runs whole without any data: debug=toy, digits of the needed kind."""

import math

import pytest
import torch
import yaml

import swinmim
from finetune.config import FinetuneConfig
from finetune.run import run as finetune
from finetune.tasks.registry import FROZEN, TASKS
from swinmim.checkpoint.encoder import load_encoder
from swinmim.composition import check
from swinmim.config import CONF_DIR

pytestmark = pytest.mark.slow
RECIPES = [
    path.stem
    for path in sorted((CONF_DIR / "experiment").glob("*.yaml"))
    if "python -m finetune experiment=" in path.read_text()
]
FILES = {path.stem: yaml.safe_load(path.read_text())["kind"] for path in sorted((CONF_DIR / "task").glob("*.yaml"))}
CHOSEN = (
    "experiment=swinv2_b_ft_224",
    "experiment=swinv2_t_detect",
    "experiment=swinv2_t_segment",
    "task=knn",
    "task=multilabel",
    "task=probe",
    "task=regress",
)
"""One of each kind: the rest is for the tests of reliability."""
ALL = [f"experiment={name}" for name in RECIPES] + [f"task={name}" for name, kind in FILES.items() if kind != "video"]
SMALLER = {
    "segment": ("task.width=16",),
    "detect": ("task.fpn_channels=16", "task.box_channels=32", "task.proposals=20", "task.sampled=16"),
    "probe": ("data.labels_per_class=4", "task.queries=8", "task.rates=[1e-2]"),
    "knn": ("data.labels_per_class=4",),
}
"""Heads are as wide in a toy as in the recipe, which a test cannot wait for; and frozen tasks look at every image."""


def kind_of(chosen: str) -> str:
    name = chosen.partition("=")[2]
    if chosen.startswith("task="):
        return FILES[name]
    return next((kind for kind in ("segment", "detect") if name.endswith(kind)), "classify")


def test_one_of_each_kind_is_chosen():
    assert set(CHOSEN) <= set(ALL)
    assert sorted(map(kind_of, CHOSEN)) == sorted({*TASKS, *FROZEN} - {"video"})


@pytest.mark.parametrize(
    "chosen", [pytest.param(name, marks=[] if name in CHOSEN else [pytest.mark.reliability]) for name in ALL]
)
def test_toy(tmp_path, cache, chosen):
    kind, run = kind_of(chosen), tmp_path / "run"
    tiny = ("trainer.max_steps=2", "data.val_ratio=0.005", "callbacks.predictions.num_images=2", *SMALLER.get(kind, ()))
    device = ("trainer.accelerator=cpu", "trainer.precision=32-true", f"data.cache_dir={cache}")
    config = check("finetune", FinetuneConfig, [chosen, "debug=toy", *tiny, *device, f"output_dir={run}"])
    assert config.task.kind == kind
    run.mkdir()
    metrics = finetune(config, run)
    assert all(map(math.isfinite, metrics.values()))
    if kind in FROZEN:
        assert (run / f"{kind}.csv").is_file()
        return
    task = TASKS[kind]
    assert task.monitor[0] in metrics
    assert len(list((run / "predictions").glob("*.png"))) == (kind in ("segment", "detect"))
    encoder = load_encoder(run)
    assert encoder.resolution == (64, 64)
    assert swinmim.load_model(run).task.kind == kind
    assert torch.isfinite(encoder(torch.zeros(1, 3, 64, 64))).all()
