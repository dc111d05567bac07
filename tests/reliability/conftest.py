"""Tiny pretraining runs in processes of their own."""

import json

import pytest
import torch
from made_images import make_slopes
from runs import TWO_EPOCHS, Run, last_losses, losses, weights

from swinmim.checkpoint import io


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Arguments of a run of two epochs of four steps; every checkpoint is kept."""
    root = tmp_path_factory.mktemp("tiny")
    return (
        *TWO_EPOCHS,
        f"data.path={make_slopes(root / 'images', 40)}",
        f"data.cache_dir={root / 'cache'}",
        "data.val_ratio=0.2",
        "schedule.warmup_epochs=0.5",
        "callbacks.checkpoint.keep_last=99",
    )


@pytest.fixture(scope="session")
def pretrain(tiny):
    def start(output_dir, *overrides, **options):
        return Run([*tiny, *overrides], output_dir, **options)

    return start


@pytest.fixture(scope="session")
def read_state():
    def read(run, step):
        """Trainer state of a checkpoint and the loss of its last step."""
        folder = io.step_folder(run / "checkpoints", step)
        assert io.problem(folder) is None
        loss = json.loads((folder / "encoder" / "manifest.json").read_text())["metrics"]["train/loss"]
        return torch.load(folder / io.STATE, weights_only=True), loss

    return read


@pytest.fixture(scope="session")
def assert_same(read_state):
    def check(one, two, step):
        """Weights, optimizer, schedule, counters and loss of two runs after a step, bit for bit."""
        (first, first_loss), (second, second_loss) = read_state(one, step), read_state(two, step)
        assert first_loss == second_loss
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            _assert_equal(first[part], second[part], part)

    return check


def _assert_equal(one, two, where):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            _assert_equal(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for index, pair in enumerate(zip(one, two, strict=True)):
            _assert_equal(*pair, f"{where}[{index}]")
    else:
        assert one == two, where


EIGHT_STEPS = (
    *TWO_EPOCHS,
    "global_batch_size=16",
    "drop_path=0.1",
    "schedule.warmup_epochs=0.4",
    "callbacks.reconstructions.every_epochs=2",
    "callbacks.reconstructions.num_images=2",
)
"""In batches of 16 of the 96 pictures, as many on each rank."""


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Arguments of a run of eight steps; every one of a session reads the same shards."""
    root = tmp_path_factory.mktemp("small")
    return (*EIGHT_STEPS, f"data.path={make_slopes(root / 'images', 96)}", f"data.cache_dir={root / 'cache'}")


@pytest.fixture(scope="session")
def start(small):
    def begin(output_dir, *overrides, world=1, **options):
        return Run([*small, f"batch_size={16 // world}", *overrides], output_dir, world=world, **options)

    return begin


@pytest.fixture(scope="session")
def whole(start, tmp_path_factory):
    """The run that nothing happens to: its losses and last weights, by number of processes."""
    done = {}

    def run(world=1):
        if world not in done:
            output_dir = tmp_path_factory.mktemp("whole") / "run"
            whole_run = start(output_dir, world=world)
            assert whole_run.wait() == [0] * world, whole_run.text()
            done[world] = (losses(output_dir), weights(output_dir))
        return done[world]

    return run


@pytest.fixture
def same_end(whole):
    """Checks that an interrupted and resumed run has the losses and the last weights of the whole one.

    `repeated` steps come twice: those after the checkpoint.
    """

    def check(output_dir, world=1, repeated=0):
        expected, final = whole(world)
        last = last_losses(output_dir)
        assert 0 < len(last) < len(expected)
        assert last == expected[-len(last) :]
        assert len(losses(output_dir)) == len(expected) + repeated
        found = weights(output_dir)
        assert all(torch.equal(tensor, found[name]) for name, tensor in final.items())

    return check
