"""Segmentation and detection as every other task: on two processes, under ZeRO, compiled, recomputed, resumed.

All runs on two processes share one pair of them, see tests/support/ranks.py.
"""

import csv
import json
import re

import compile_cheaply
import pytest
import torch
from made_squares import make_coco, make_pairs
from ranks import run_ranks
from runs import CPU, losses, weights
from torch._dynamo.utils import counters

from finetune.apply import evaluation
from finetune.apply.config import EvaluateConfig
from finetune.config import FinetuneConfig
from finetune.run import run as finetune
from swinmim.checkpoint import io
from swinmim.composition import check
from swinmim.models.swinv2 import SwinV2

pytestmark = pytest.mark.slow
TASKS = {
    "segment": ("task=segment", "task.width=16", "optim.base_lr=0.1"),
    "detect": (
        "task=detect",
        "task.jitter=[0.6,1.4]",
        "task.anchor_scale=4",
        "task.fpn_channels=16",
        "task.box_channels=32",
        "task.proposals=20",
        "task.sampled=16",
        "task.least_score=0.01",
        "optim.base_lr=0.05",
    ),
}
SMALL = (
    *CPU,
    "ckpt=null",
    "model=swinv2_demo",
    "model.embed_dim=16",
    "model.head_dim=8",
    "resolution=32",
    "global_batch_size=8",
    "trainer.max_epochs=2",
    "trainer.log_every_steps=1",
    "schedule.warmup_epochs=0.2",
    "callbacks.predictions.num_images=2",
    "callbacks.checkpoint.every_steps=1",
    "callbacks.checkpoint.keep_last=9",
)
"""Three steps an epoch."""
on_each = pytest.mark.parametrize("task", list(TASKS))


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    root = tmp_path_factory.mktemp("dense")
    sets = {"segment": make_pairs(root / "pairs"), "detect": make_coco(root / "coco")}
    return {
        task: (*SMALL, *TASKS[task], f"data.path={sets[task]}", f"data.cache_dir={root / 'cache'}") for task in TASKS
    }


@pytest.fixture
def run(arguments, tmp_path):
    """A run of a task on one process, in a folder of this name."""

    def start(task, name, *overrides):
        folder = tmp_path / name
        folder.mkdir()
        config = check(
            "finetune", FinetuneConfig, [*arguments[task], "batch_size=4", f"output_dir={folder}", *overrides]
        )
        return folder, finetune(config, folder)

    return start


@pytest.fixture(scope="module")
def two_ranks(arguments, tmp_path_factory):
    """All runs on two processes."""
    root, jobs = tmp_path_factory.mktemp("two_ranks"), []

    def job(task, name, strategy, *overrides):
        where = (f"output_dir={root / f'{task}_{name}'}", f"strategy={strategy}", "trainer.devices=2", "batch_size=4")
        jobs.append(["finetune", *arguments[task], *where, *overrides])

    for task in TASKS:
        for strategy in ("ddp", "deepspeed_zero2", "deepspeed_zero3"):
            job(task, strategy, strategy)
        step = io.step_folder(root / f"{task}_ddp" / "checkpoints", 2)
        job(task, "resumed", "ddp", f"resume={step}")
        job(task, "recomputed", "ddp", "recompute=selective")
        job(task, "averaged", "ddp", "callbacks.ema_decay=0.5")
    run_ranks(jobs, 2, root / "two_ranks")
    return root


def measured(folder):
    found = json.loads((folder / "metrics.json").read_text())
    return {name: value for name, value in found.items() if name.startswith("val/")}


@on_each
@pytest.mark.parametrize("name", ["ddp", "averaged"])
def test_validation_on_two_processes_is_that_on_one(two_ranks, tmp_path, task, name):
    folder = two_ranks / f"{task}_{name}"
    config = check("evaluate", EvaluateConfig, [f"ckpt={folder}", f"output_dir={tmp_path}", "trainer.accelerator=cpu"])
    (row,) = evaluation.run(config, tmp_path)
    said = measured(folder)
    assert said
    assert said == {name: row[name.removeprefix("val/")] for name in said}


@on_each
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_learns_what_ddp_learns(two_ranks, task, stage):
    folder = two_ranks / f"{task}_deepspeed_zero{stage}"
    assert losses(folder) == pytest.approx(losses(two_ranks / f"{task}_ddp"), rel=1e-4)
    assert len(losses(folder)) == 6
    assert measured(folder) == pytest.approx(measured(two_ranks / f"{task}_ddp"), rel=1e-2)
    assert weights(folder).keys() == weights(two_ranks / f"{task}_ddp").keys()
    assert len(list((folder / "predictions").iterdir())) > 0


@on_each
def test_a_resumed_run_is_the_same_on_two_processes(two_ranks, task):
    whole = two_ranks / f"{task}_ddp"
    assert losses(two_ranks / f"{task}_resumed") == losses(whole)[2:]
    assert measured(two_ranks / f"{task}_resumed") == measured(whole)
    for name, tensor in weights(two_ranks / f"{task}_resumed").items():
        assert torch.equal(tensor, weights(whole)[name]), name


@on_each
def test_recomputation_changes_nothing(two_ranks, task):
    assert losses(two_ranks / f"{task}_recomputed") == pytest.approx(losses(two_ranks / f"{task}_ddp"), rel=1e-5)


@on_each
def test_the_worst_images_of_all_ranks_are_shown(two_ranks, task):
    with (two_ranks / f"{task}_ddp" / "hard_examples.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["image"] for row in rows}) == len(rows) == 7  # validation images, each on one rank
    goodness = [float(row["goodness"]) for row in rows]
    assert goodness == sorted(goodness)


@on_each
def test_the_average_is_of_the_weights_that_both_ranks_have(two_ranks, task):
    folder = two_ranks / f"{task}_averaged"
    assert losses(folder) == losses(two_ranks / f"{task}_ddp")  # they train on without it
    average = None
    for step in range(1, 7):
        state = torch.load(io.step_folder(folder / "checkpoints", step) / io.STATE, weights_only=True)["state_dict"]
        current = {name: value for name, value in state.items() if value.is_floating_point()}
        average = {n: value if average is None else 0.5 * average[n] + 0.5 * value for n, value in current.items()}
    for name, tensor in weights(folder).items():
        there = next((n for n in (f"network.encoder.{name}", f"network.{name}") if n in average), None)
        if there is not None:
            torch.testing.assert_close(tensor, average[there])


@on_each
# tracing looks at .grad of every input and hides the warning by a filter that "error" overrules
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_runs_learn_the_same(run, task, caplog, monkeypatch, fresh_compiler):
    monkeypatch.setattr(SwinV2.compile_blocks, "__defaults__", SwinV2.compile_blocks.__defaults__)
    compile_cheaply.skip_inductor()
    plain, _ = run(task, "plain")
    with caplog.at_level("INFO"):
        compiled, _ = run(task, "compiled", "compile=true", "recompute=selective")
    assert re.findall(r"compile: (\d+) graphs in", caplog.text)
    assert "more graphs" not in caplog.text  # the windows of a validation come in batches of any size
    assert not counters["graph_break"]
    assert losses(compiled) == pytest.approx(losses(plain), rel=1e-3)
