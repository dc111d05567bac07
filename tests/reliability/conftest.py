"""Tiny pretraining runs in processes of their own."""

import json

import numpy as np
import pytest
import torch
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
