"""A resumed run equals the uninterrupted one, whatever the moment, the workers and the number of ranks."""

import csv
import shutil

import pytest
import torch
from safetensors.torch import load_file

from swinmim.checkpoint import io

STOPS = {
    "mid-epoch": (2, ("drop_path=0.1", "callbacks.checkpoint.every_steps=2", "callbacks.checkpoint.every_epochs=2")),
    "epoch end": (4, ("drop_path=0.1", "callbacks.checkpoint.every_steps=2", "callbacks.checkpoint.every_epochs=2")),
    "after epoch": (
        4,
        (
            "drop_path=0.1",
            "callbacks.checkpoint.every_epochs=1",
        ),
    ),
}
"""Step and settings: the step hook saves before an epoch closes, the epoch hook after."""
LAST = 8


def logged(run):
    """(step, samples_seen, loss) of every logged step."""
    rows = {}
    for path in sorted(run.glob("metrics/version_*/metrics.csv")):
        with path.open() as file:
            for row in csv.DictReader(file):
                if row["train/loss"]:
                    rows[int(row["step"])] = (row["samples_seen"], row["train/loss"], row["train/lr"])
    return rows


@pytest.fixture(scope="module")
def wholes(pretrain, tmp_path_factory):
    """(ranks, settings) -> an uninterrupted run, made once."""
    root, made = tmp_path_factory.mktemp("wholes"), {}

    def get(ranks, options):
        if (ranks, options) not in made:
            made[ranks, options] = root / str(len(made))
            pretrain(made[ranks, options], *options, world=ranks).succeed()
        return made[ranks, options]

    return get


def resume(pretrain, whole, part, step, *options, ranks):
    source = io.step_folder(whole / "checkpoints", step)
    shutil.copytree(source, part / "checkpoints" / source.name)
    run = pretrain(part, *options, "resume=auto", world=ranks)
    run.succeed()
    return run


every = pytest.mark.reliability


CASES = [
    pytest.param(stop, ranks, workers, marks=() if (ranks, workers) == (1, 2 if stop == "mid-epoch" else 0) else every)
    for stop in STOPS
    for ranks in (1, 2)
    for workers in (0, 2)
]


@pytest.mark.slow
@pytest.mark.parametrize(("stop", "ranks", "workers"), CASES)
def test_resume_is_exact(pretrain, wholes, tmp_path, assert_same, stop, ranks, workers):
    step, options = STOPS[stop]
    whole, part = wholes(ranks, options), tmp_path / "part"
    resume(pretrain, whole, part, step, *options, f"data.num_workers={workers}", ranks=ranks)
    assert_same(whole, part, LAST)
    uninterrupted, rest = logged(whole), logged(part)
    assert sorted(uninterrupted) == list(range(LAST))
    assert rest == {number: row for number, row in uninterrupted.items() if number >= step}


@pytest.mark.slow
@pytest.mark.parametrize("stop", ["mid-epoch", *(pytest.param(s, marks=every) for s in ("epoch end", "after epoch"))])
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_resume_on_another_number_of_ranks(pretrain, wholes, tmp_path, stop, before, after):
    """Ranks and micro-batches of 4 split the global batch of 8 in the same way. Without drop path, whose draws follow
    the rank, nothing but the order of sums can differ."""
    step, options = STOPS[stop]
    options = (*options, "drop_path=0.0")
    whole, part = wholes(before, options), tmp_path / "part"
    run = resume(pretrain, whole, part, step, *options, ranks=after)
    shown = {1: "null", 2: "2"}
    assert f"trainer.devices: {shown[before]} -> {shown[after]}" in run.text()
    one, two = (load_file(where / "encoder" / "model.safetensors") for where in (whole, part))
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


@pytest.mark.slow
def test_a_seed_decides_everything(pretrain, wholes, tmp_path, assert_same):
    options = STOPS["mid-epoch"][1]
    whole = wholes(1, options)
    for name, seed in (("again", 0), ("other", 1)):
        pretrain(tmp_path / name, *options, f"seed={seed}").succeed()
    for step in (2, 4, 6, 8):
        assert_same(whole, tmp_path / "again", step)
    assert logged(whole) == logged(tmp_path / "again")
    one, other = logged(whole), logged(tmp_path / "other")
    assert all(one[step][1] != other[step][1] for step in range(LAST))


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "bit flip"])
def test_a_damaged_checkpoint_is_passed_over_aloud(pretrain, wholes, tmp_path, assert_same, damage):
    _, options = STOPS["mid-epoch"]
    whole, run = wholes(1, options), tmp_path / "run"
    for step in (2, 4):
        shutil.copytree(io.step_folder(whole / "checkpoints", step), io.step_folder(run / "checkpoints", step))
    state = io.step_folder(run / "checkpoints", 4) / io.STATE
    with state.open("r+b") as file:
        if damage == "truncated":
            file.truncate(state.stat().st_size // 2)
        else:
            file.seek(state.stat().st_size // 2)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 16]))
    process = pretrain(run, *options, "resume=auto")
    process.succeed()
    assert "passed over step_00000004/state.ckpt is " + damage.replace("bit flip", "damaged") in process.text()
    assert "step_00000002" in process.text()
    assert sorted(logged(run)) == list(range(2, LAST))
    assert_same(whole, run, LAST)
