"""Whole runs on the bundled digits, small enough for a CPU."""

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.config import FinetuneConfig
from finetune.run import run as finetune
from pretrain.config import PretrainConfig
from pretrain.run import run as pretrain
from swinmim import door


@pytest.fixture(autouse=True)
def started(monkeypatch):
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """160 pictures of coloured slopes in two class folders."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 1, 32)
    for index in range(160):
        low, high = rng.integers(0, 255, (2, 3))
        slope = (ramp[:, None] if index % 2 else ramp[None]).repeat(32, axis=index % 2)[..., None]
        folder = root / ("vertical" if index % 2 else "horizontal")
        folder.mkdir(exist_ok=True)
        Image.fromarray((low + (high - low) * slope).astype(np.uint8)).save(folder / f"{index:03d}.png")
    return root


CPU = ("trainer.accelerator=cpu", "trainer.precision=32-true", "data.num_workers=0")
TINY = (
    *CPU,
    "trainer.max_epochs=2",
    "trainer.log_every_steps=1",
    "trainer.val_every_epochs=1",
    "model.embed_dim=32",
    "model.head_dim=16",
    "global_batch_size=32",
    "batch_size=32",
    "schedule.warmup_epochs=0.5",
    "callbacks.reconstructions.num_images=2",
)


@pytest.fixture
def tiny_arguments(cache, images):
    """Overrides of a run of eight steps."""
    return [*TINY, f"data.cache_dir={cache}", f"data.path={images}"]


@pytest.fixture
def run_pretrain(tiny_arguments):
    def run(output_dir: Path, *overrides: str) -> dict[str, float]:
        arguments = [*tiny_arguments, f"output_dir={output_dir}", *overrides]
        config = door.check("pretrain", PretrainConfig, arguments)
        output_dir.mkdir(parents=True, exist_ok=True)
        return pretrain(config, output_dir)

    return run


@pytest.fixture
def run_finetune(cache):
    def run(output_dir: Path, *overrides: str) -> dict[str, float]:
        small = (*CPU, "trainer.max_epochs=2", "trainer.val_every_epochs=1")
        arguments = ["experiment=demo_ft", *small, f"data.cache_dir={cache}", f"output_dir={output_dir}", *overrides]
        config = door.check("finetune", FinetuneConfig, arguments)
        output_dir.mkdir(parents=True, exist_ok=True)
        return finetune(config, output_dir)

    return run


@pytest.fixture(scope="session")
def read_losses():
    def read(run_dir: Path) -> list[float]:
        """Training losses in the order they were logged, over all parts of a resumed run."""
        losses = []
        for path in sorted(run_dir.glob("metrics/version_*/metrics.csv")):
            with path.open() as file:
                losses += [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
        return losses

    return read
