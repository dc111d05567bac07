"""The settings must be what the launcher started."""

import pytest
import torch

from swinmim import door
from swinmim.errors import ConfigError
from swinmim.training.launch import check_launch, check_visible
from swinmim.training.settings import StrategyConfig, TrainerConfig
from swinmim.training.trainer import check_world

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}
TORCHRUN |= {"LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}


@pytest.fixture
def torchrun(monkeypatch):
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value)


def test_devices_follow_the_launcher(torchrun):
    trainer = TrainerConfig(max_epochs=1)
    assert (trainer.devices_per_node, trainer.nodes, trainer.world_size) == (4, 2, 8)
    check_world(trainer, StrategyConfig(kind="ddp"))
    with pytest.raises(ConfigError, match=r"Add strategy=ddp"):
        check_world(trainer, StrategyConfig(kind="single"))


def test_without_a_launcher_one_process_uses_one_device():
    trainer = TrainerConfig(max_epochs=1)
    assert (trainer.devices_per_node, trainer.nodes, trainer.world_size) == (1, 1, 1)
    assert TrainerConfig(max_epochs=1, devices=2).world_size == 2


@pytest.mark.parametrize("settings", [{"devices": 8}, {"num_nodes": 1}, {"devices": 4, "num_nodes": 4}])
def test_other_numbers_than_the_launchers_are_refused(torchrun, settings):
    with pytest.raises(ConfigError, match=r"torchrun started 8 processes on 2 node\(s\), but trainer.devices="):
        check_world(TrainerConfig(max_epochs=1, **settings), StrategyConfig(kind="ddp"))


def test_unequal_nodes_are_refused(torchrun, monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    with pytest.raises(ConfigError, match="not the same number on each"):
        check_world(TrainerConfig(max_epochs=1), StrategyConfig(kind="ddp"))


def test_many_nodes_need_a_launcher(monkeypatch):
    with pytest.raises(ConfigError, match=r"scripts/launch_torchrun\.sh"):
        check_launch(8, 2, explicit=True)
    monkeypatch.setenv("SLURM_NTASKS", "8")
    with pytest.raises(ConfigError, match="Put srun before the command"):
        check_launch(1, 1, explicit=False)
    check_launch(8, 1, explicit=True)


def test_gpus_hidden_from_a_task_are_missed(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    check_visible("cpu", 8)
    check_visible("auto", 1)
    with pytest.raises(ConfigError, match=r"8 devices of this node .* 1 GPU\(s\) are visible\.$"):
        check_visible("auto", 8)


def test_srun_names_the_run_by_its_job(monkeypatch, tmp_path):
    for name, value in {"STEP_ID": "0", "PROCID": "0", "NTASKS": "2", "LOCALID": "0", "JOB_ID": "42"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    name = door._run_name()
    assert name == "slurm_42"
    monkeypatch.setenv(door.STARTED, name)
    door.check_resume(tmp_path / name, "auto")  # a requeued job finds its directory again
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")
    with pytest.raises(ConfigError, match="the default one is new at every start"):
        door.check_resume(tmp_path / "2026-01-01_00-00-00", "auto")
