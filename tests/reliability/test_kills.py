"""SIGKILL at any moment of a save: the last checkpoint always loads, and the run ends as if nothing had happened."""

import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path

import pytest
from runs import seen, step_of

from swinmim.checkpoint import io

EVERY_STEP = ("callbacks.checkpoint.every_steps=1", "trainer.max_epochs=6", "trainer.val_every_epochs=6")
STEPS = 24
SHM = Path("/dev/shm")


@pytest.fixture(scope="module")
def whole(pretrain, tmp_path_factory):
    """A run of 24 steps that nobody killed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    pretrain(run, *EVERY_STEP).succeed()
    return run


@pytest.fixture(params=["one filesystem", pytest.param("TMPDIR on another", marks=pytest.mark.reliability)])
def temporary(request, tmp_path):
    """An empty TMPDIR."""
    if request.param == "one filesystem":
        (tmp_path / "tmp").mkdir()
        yield tmp_path / "tmp"
        return
    if not os.access(SHM, os.W_OK) or SHM.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second filesystem at /dev/shm")
    with tempfile.TemporaryDirectory(dir=SHM) as folder:
        yield Path(folder)


def moments(root: Path, done: int):
    """The parts of the save of a step after `done`, each as a condition that becomes true once."""

    def draft() -> Path | None:
        return next((path for path in root.glob(".step_*.partial") if step_of(path) > done), None)

    def grown(name: str):
        return lambda: (path := draft()) is not None and (path / name).exists() and (path / name).stat().st_size > 0

    return {
        "begun": lambda: draft() is not None,
        "encoder": grown("encoder/model.safetensors"),
        "state": grown(io.STATE),
        "marker": lambda: (path := draft()) is not None and (path / io.COMPLETE).exists(),
        "named": lambda: any(step_of(path) > done for path in root.glob("step_*")),
    }


def kill_once(run, root: Path, moment: str, delay: float) -> str | None:
    """Wait for a moment of the next save and kill; None if the run was faster."""
    before = io.newest(root)[0]
    done = step_of(before) if before else 0
    reached = moments(root, done)
    while run.alive:
        try:
            if reached[moment]() or reached["named"]():
                break
        except FileNotFoundError:  # renamed while looking
            continue
        time.sleep(0.0002)
    time.sleep(delay)
    run.kill()
    after = io.newest(root)[0]
    assert before is None or after is not None, "the previous checkpoint is gone"
    assert before is None or step_of(after) >= done, "the run went back"
    return None if after is None else after.name


@pytest.mark.slow
@pytest.mark.parametrize(
    "kills", [4, pytest.param(20, marks=pytest.mark.reliability)], ids=["four kills", "twenty kills"]
)
def test_killed_saves_resume_bit_for_bit(pretrain, whole, tmp_path, temporary, kills, assert_same):
    rng = random.Random(kills)
    keep = f"callbacks.checkpoint.keep_last={99 if kills == 20 else 1}"
    run, root = tmp_path / "run", tmp_path / "run" / "checkpoints"
    root.mkdir(parents=True)  # resume=auto wants a directory to go on in
    environment = {"TMPDIR": str(temporary)}
    names = list(moments(root, 0))
    for number in range(kills):
        with pretrain(run, *EVERY_STEP, keep, "resume=auto", environment=environment) as process:
            kill_once(process, root, names[number % len(names)], rng.choice((0, rng.random() * 0.02)))
        assert not list(temporary.iterdir()), "a leftover in TMPDIR"
        assert len(list(root.glob(".step_*"))) <= 1
    pretrain(run, *EVERY_STEP, keep, "resume=auto", environment=environment).succeed()
    assert not list(temporary.iterdir())
    assert not list(root.glob(".*"))
    saved = sorted(step_of(path) for path in root.glob("step_*"))
    assert saved[-1] == STEPS
    assert saved == (list(range(1, STEPS + 1)) if kills == 20 else [STEPS])
    for step in saved:
        assert_same(whole, run, step)


def grad_norms(run):
    """Of the step of each checkpoint."""
    manifests = sorted((run / "checkpoints").glob("step_*/encoder/manifest.json"))
    return [json.loads(path.read_text())["metrics"]["train/grad_norm"] for path in manifests]


@pytest.mark.reliability
def test_kills_between_other_batches_workers_and_ranks_take_every_step_once(pretrain, tmp_path):
    rng = random.Random(0)
    options = (*EVERY_STEP, "drop_path=0.0")
    whole, run, root = tmp_path / "whole", tmp_path / "run", tmp_path / "run" / "checkpoints"
    pretrain(whole, *options, samples=tmp_path / "all").succeed()
    run.mkdir()  # which resume=auto needs where no launcher starts the command
    every, delivered, done = seen(tmp_path / "all"), {}, 0
    cases = [(1, 0, 8), (2, 1, 2), (1, 2, 1), (2, 0, 4), (1, 1, 2)]
    for number, (ranks, workers, size) in enumerate(cases):
        samples = tmp_path / f"samples{number}"
        other = ("resume=auto", f"data.num_workers={workers}", f"batch_size={size}")
        with pretrain(run, *options, *other, world=ranks, samples=samples) as process:
            wanted = io.step_folder(root, done + rng.randint(2, 4))
            while process.alive and not wanted.exists():
                time.sleep(0.001)
            time.sleep(rng.random() * 0.05)
            assert process.alive, process.text()
            process.kill()
        before, done = done, step_of(io.newest(root)[0])
        assert before < done < STEPS
        part = seen(samples)
        assert min(part) == before
        delivered |= {step: part[step] for step in range(before, done)}
    pretrain(run, *options, "resume=auto", samples=tmp_path / "rest").succeed()
    delivered |= seen(tmp_path / "rest")
    assert {step: sorted(indices) for step, indices in delivered.items()} == {
        step: sorted(indices) for step, indices in every.items()
    }
    assert sorted(step_of(path) for path in root.glob("step_*")) == list(range(1, STEPS + 1))
    assert grad_norms(run) == pytest.approx(grad_norms(whole), rel=1e-6)


@pytest.mark.slow
def test_each_sample_is_seen_once_over_an_epoch_with_a_kill(pretrain, tmp_path):
    run, root = tmp_path / "run", tmp_path / "run" / "checkpoints"
    options = ("callbacks.checkpoint.every_steps=1", "trainer.max_epochs=1", "trainer.val_every_epochs=1")
    with pretrain(run, *options, samples=tmp_path / "first") as process:
        while process.alive and not io.step_folder(root, 2).exists():
            time.sleep(0.001)
        process.kill()
    kept = step_of(io.newest(root)[0])
    assert kept >= 2
    pretrain(run, *options, "resume=auto", samples=tmp_path / "second").succeed()
    first, second = seen(tmp_path / "first"), seen(tmp_path / "second")
    delivered = [index for step in range(kept) for index in first[step]]
    delivered += [index for indices in second.values() for index in indices]
    assert min(second, default=kept) == kept
    assert len(delivered) == len(set(delivered)) == 32
    shutil.rmtree(run)
