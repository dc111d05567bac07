"""Tiny pretraining runs in processes of their own."""

import json

import numpy as np
import pytest
import torch
import whole_runs
from PIL import Image
from processes import Run

from swinmim.checkpoint import io


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """Images, their cache, and room for all users."""
    root = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    for number in range(40):
        low, high = rng.integers(0, 255, (2, 3))
        slope = np.linspace(0, 1, 32)[:, None, None].repeat(32, 1)
        Image.fromarray((low + (high - low) * slope).astype(np.uint8)).save(root / "images" / f"{number:03d}.png")
    return root


@pytest.fixture(scope="session")
def tiny(place):
    """Arguments of a run of two epochs of four steps; every checkpoint is kept."""
    return (
        f"data.path={place / 'images'}",
        f"data.cache_dir={place / 'cache'}",
        "data.num_workers=0",
        "data.val_ratio=0.2",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=2",
        "trainer.log_every_steps=1",
        "trainer.val_every_epochs=2",
        "model.embed_dim=32",
        "model.head_dim=16",
        "global_batch_size=8",
        "batch_size=4",
        "schedule.warmup_epochs=0.5",
        "callbacks.reconstructions.num_images=1",
        "callbacks.checkpoint.keep_last=99",
    )


@pytest.fixture(scope="session")
def pretrain(tiny):
    def start(output_dir, *overrides, log="log", **options):
        output_dir.mkdir(parents=True, exist_ok=True)
        return Run(
            [*tiny, f"output_dir={output_dir}", *overrides], output_dir.with_name(f"{output_dir.name}.{log}"), **options
        )

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


@pytest.fixture(scope="session")
def made_images(tmp_path_factory):
    """96 pictures of coloured slopes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 32)
    for index in range(96):
        low, high = rng.integers(0, 255, (2, 3))
        slope = (ramp[:, None] if index % 2 else ramp[None]).repeat(32, axis=index % 2)[..., None]
        Image.fromarray((low + (high - low) * slope).astype(np.uint8)).save(root / f"{index:03d}.png")
    return root


@pytest.fixture(scope="session")
def start(made_images, tmp_path_factory):
    """Start a whole run; every one of a session reads the same shards."""
    cache = tmp_path_factory.mktemp("cache")

    def begin(output_dir, *overrides, **options):
        return whole_runs.Run(output_dir, f"data.path={made_images}", f"data.cache_dir={cache}", *overrides, **options)

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
            done[world] = (whole_runs.losses(output_dir), whole_runs.weights(output_dir))
        return done[world]

    return run


@pytest.fixture
def same_end(whole):
    """Checks that an interrupted and resumed run has the losses and the last weights of the whole one.

    `repeated` steps come twice: those after the checkpoint.
    """

    def check(output_dir, world=1, repeated=0):
        expected, final = whole(world)
        last = whole_runs.last_losses(output_dir)
        assert 0 < len(last) < len(expected)
        assert last == expected[-len(last) :]
        assert len(whole_runs.losses(output_dir)) == len(expected) + repeated
        found = whole_runs.weights(output_dir)
        assert all(torch.equal(tensor, found[name]) for name, tensor in final.items())

    return check
