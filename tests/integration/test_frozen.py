"""Runs that measure a frozen encoder, through the same door as those that train."""

import csv
import json

import pytest
import torch
from runs import CPU

import swinmim
from finetune.config import FinetuneConfig
from finetune.run import run as finetune
from swinmim.composition import check
from swinmim.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.slow
SMALL = ("resolution=32", "data.labels_per_class=20", "data.val_ratio=0.1", "global_batch_size=64", "batch_size=50")
PROBE = (*SMALL, "task=probe", "trainer.max_epochs=30", "task.rates=[1e-3,1e-2]", "task.queries=16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(1)
    encoder = swinmim.create_encoder("swinv2_demo", resolution=32, embed_dim=16, head_dim=8)
    for parameter in encoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return swinmim.save_encoder(encoder, tmp_path_factory.mktemp("frozen") / "folder")


@pytest.fixture
def run_frozen(cache):
    def run(output_dir, *overrides):
        arguments = ["data=digits", *CPU, f"data.cache_dir={cache}", f"output_dir={output_dir}", *overrides]
        config = check("finetune", FinetuneConfig, arguments)
        output_dir.mkdir(parents=True, exist_ok=True)
        return finetune(config, output_dir)

    return run


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_probe_leaves_a_table_with_the_untrained_network_beside_it(tmp_path, run_frozen, folder, caplog):
    with caplog.at_level("INFO"):
        metrics = run_frozen(tmp_path / "run", f"ckpt={folder}", *PROBE)
    table = rows(tmp_path / "run" / "probe.csv")
    assert list(table[0]) == ["stage", "head", "top1", "untrained_top1", "rate", "held_out_top1"]
    assert [(row["stage"], row["head"]) for row in table] == [
        ("1", "linear"), ("1", "attentive"), ("2", "linear"), ("2", "attentive")
    ]  # fmt: skip
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert len(metrics) == 8
    for row in table:
        name = f"probe/{row['head']}_s{row['stage']}"
        assert float(row["top1"]) == metrics[name]
        assert float(row["untrained_top1"]) == metrics[f"{name}_untrained"]
    assert max(metrics.values()) > 0.3  # ten classes
    assert metrics["probe/linear_s1"] != metrics["probe/linear_s1_untrained"]
    assert "yardstick is fine-tuning" in caplog.text
    assert "untrained_top1" in caplog.text
    assert not (tmp_path / "run" / "checkpoints").exists()
    with caplog.at_level("INFO"):
        again = run_frozen(tmp_path / "run", f"ckpt={folder}", *PROBE, "resume=auto")
    assert again == metrics
    assert "keeps no state, so it measures anew" in caplog.text


def test_the_untrained_column_is_a_run_from_scratch(tmp_path, run_frozen, folder):
    scratch = ("ckpt=null", "model=swinv2_demo", "model.embed_dim=16", "model.head_dim=8", "task=knn", *SMALL)
    alone = run_frozen(tmp_path / "scratch", *scratch, "data.stats=imagenet", "logger=wandb")
    beside = run_frozen(tmp_path / "run", f"ckpt={folder}", "task=knn", *SMALL, "data.stats=imagenet")
    assert alone == {name: value for name, value in beside.items() if name.endswith("untrained")}
    assert list(rows(tmp_path / "scratch" / "knn.csv")[0]) == ["stage", "head", "untrained_top1"]


def test_an_encoder_that_has_diverged_is_named(tmp_path, run_frozen):
    encoder = swinmim.create_encoder("swinv2_demo", resolution=32, embed_dim=16, head_dim=8)
    encoder.norm.bias.data.fill_(torch.nan)
    broken = swinmim.save_encoder(encoder, tmp_path / "broken")
    with pytest.raises(CheckpointError, match=r"broken: stage 2 gives values that are not finite.*Take another check"):
        run_frozen(tmp_path / "run", f"ckpt={broken}", "task=knn", *SMALL)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_what_does_not_fit_stops_before_a_feature(tmp_path, run_frozen, folder, monkeypatch):
    with pytest.raises(ConfigError, match=r"task\.queries must divide the 16 channels of stage 1, got 32"):
        run_frozen(tmp_path / "a", f"ckpt={folder}", *PROBE, "task.queries=32")
    monkeypatch.setattr("finetune.measure.host_memory", lambda: 2**20)
    with pytest.raises(ConfigError, match=r"the features of 380 images need .*task\.heads=\[linear\]"):
        run_frozen(tmp_path / "c", f"ckpt={folder}", *PROBE)
