"""Whole runs on the bundled digits, small enough for a CPU."""

from pathlib import Path

import pytest
from made_images import make_slopes
from runs import CPU, TINY, losses

from finetune.config import FinetuneConfig
from finetune.run import run as finetune
from pretrain.config import PretrainConfig
from pretrain.run import run as pretrain
from swinmim import door
from swinmim.composition import check


@pytest.fixture(autouse=True)
def started(monkeypatch):
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """160 pictures of coloured slopes in two class folders."""
    return make_slopes(tmp_path_factory.mktemp("images"), 160, ("horizontal", "vertical"))


FOUR_STEPS = (
    *TINY,
    "trainer.max_epochs=2",
    "trainer.max_steps=-1",
    "trainer.val_every_epochs=1",
    "model.embed_dim=32",
    "model.head_dim=16",
    "global_batch_size=32",
    "batch_size=32",
    "schedule.warmup_epochs=0.5",
    "callbacks.reconstructions.num_images=2",
)
"""Of each of two epochs, wider than the smallest: the run of the golden losses."""


@pytest.fixture
def tiny_arguments(cache, images):
    """Overrides of a run of eight steps."""
    return [*FOUR_STEPS, f"data.cache_dir={cache}", f"data.path={images}"]


@pytest.fixture
def run_pretrain(tiny_arguments):
    def run(output_dir: Path, *overrides: str) -> dict[str, float]:
        arguments = [*tiny_arguments, f"output_dir={output_dir}", *overrides]
        config = check("pretrain", PretrainConfig, arguments)
        output_dir.mkdir(parents=True, exist_ok=True)
        return pretrain(config, output_dir)

    return run


@pytest.fixture
def run_finetune(cache):
    def run(output_dir: Path, *overrides: str) -> dict[str, float]:
        small = (*CPU, "trainer.max_epochs=2", "trainer.val_every_epochs=1")
        arguments = ["experiment=demo_ft", *small, f"data.cache_dir={cache}", f"output_dir={output_dir}", *overrides]
        config = check("finetune", FinetuneConfig, arguments)
        output_dir.mkdir(parents=True, exist_ok=True)
        return finetune(config, output_dir)

    return run


@pytest.fixture(scope="session")
def read_losses():
    """Training losses in the order they were logged, over all parts of a resumed run."""
    return losses
