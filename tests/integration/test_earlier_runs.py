"""What was written before the rooms were built goes on. Shard sets: tests/data/shards; folders: tests/swinmim."""

import shutil
from pathlib import Path

import pytest
from runs import CPU, losses

from data.sources.folder import FolderSource
from data.sources.source import Item
from data.write.pack import _cache_name
from data.write.writer import WriteOptions
from pretrain.config import PretrainConfig
from pretrain.run import run
from swinmim.composition import check
from swinmim.errors import ConfigError

GOLDEN = Path(__file__).parents[1] / "golden"
SETTINGS = (
    *CPU,
    f"data.path={GOLDEN / 'shards_v1'}",
    "data.val_ratio=0.3",
    "model=swinv2_demo",
    "model.embed_dim=8",
    "model.head_dim=4",
    "resolution=32",
    "global_batch_size=1",
    "batch_size=1",
    "trainer.max_epochs=2",
    "trainer.log_every_steps=1",
    "schedule.warmup_epochs=0",
    "callbacks.checkpoint.every_epochs=1",
    "callbacks.checkpoint.keep_last=2",
    "callbacks.reconstructions.num_images=1",
    "logger=csv",
    "resume=auto",
)
"""Of the run in tests/golden/pretrain_run, which was stopped after the first of its two epochs of two steps."""


@pytest.fixture
def begun(tmp_path):
    return shutil.copytree(GOLDEN / "pretrain_run", tmp_path / "run")


@pytest.mark.slow
def test_a_checkpoint_of_an_earlier_version_is_continued(begun):
    """Its losses are those of the whole run under that version; fp32 sums differ a little between builds of torch."""
    before = ("optim.decay_attention=false", "allow_drift=[optim.decay_attention]")
    run(check("pretrain", PretrainConfig, [*SETTINGS, f"output_dir={begun}", *before]), begun)
    assert losses(begun) == pytest.approx([0.8547108769416809, 0.8616502285003662], rel=1e-5)


def test_a_rule_that_is_new_since_a_checkpoint_is_named(begun):
    with pytest.raises(ConfigError, match=r"optim.decay_attention: \(absent\) -> true"):
        run(check("pretrain", PretrainConfig, [*SETTINGS, f"output_dir={begun}"]), begun)


def test_a_cache_of_an_earlier_version_is_found_again():
    """The name follows from the listing and the options; another one would pack every folder anew."""
    items = [Item("a/1.jpg", 0, 10, 20), Item("b/2.png", 1, 30, 40)]
    source = FolderSource(items, ("a", "b"), root=Path("/images"))
    assert _cache_name(source, WriteOptions(resize=256)) == "images-6632f3b97d74cf8d"
