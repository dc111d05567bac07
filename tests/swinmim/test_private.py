"""Each private name still means what our code takes it for."""

import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch.callbacks import EMAWeightAveraging
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch.utils.data import DataLoader, TensorDataset

from swinmim import private


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def training_step(self, batch, batch_idx):
        return self.weight.sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def trainer(**options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", devices=1, max_epochs=1, enable_model_summary=False, **quiet, **options)


def test_importing_it_costs_nothing():
    code = "import swinmim.private, sys; print({'torch', 'lightning', 'deepspeed'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout == "set()\n"


def test_cluster_environment_is_the_plugin_of_the_trainer():
    environment = LightningEnvironment()
    assert private.cluster_environment(trainer(plugins=[environment])) is environment


def test_only_ranks_that_lightning_started_are_its_children():
    assert private.started_ranks(trainer()) == []
    strategy = DDPStrategy(parallel_devices=[torch.device("cpu")], cluster_environment=LightningEnvironment())
    strategy._configure_launcher()
    assert isinstance(strategy.launcher, _SubprocessScriptLauncher)
    strategy.launcher.procs = ["a child"]
    assert private.started_ranks(SimpleNamespace(strategy=strategy)) == ["a child"]


def test_the_observer_ends_without_a_look_at_the_children():
    class Child:
        returncode = 1
        pid = 0

        def poll(self):
            raise AssertionError("looked")

    observer = _ChildProcessObserver(main_pid=-1, child_processes=[Child()], sleep_period=0.5)
    observer.start()
    assert observer in threading.enumerate()
    private.dismiss_child_observer()
    observer.join(10)
    assert observer._finished


def test_no_rank_asks_for_sigterm_any_more():
    run = trainer()
    loop = run.fit_loop.epoch_loop
    assert isinstance(loop, _TrainingEpochLoop)
    private.drop_sigterm_broadcast(run)
    assert "_broadcast_sigterm_tensor" in vars(loop)
    assert "_broadcast_sigterm_tensor" in _TrainingEpochLoop.advance.__code__.co_names
    run._signal_connector.received_sigterm = True
    loop._broadcast_sigterm_tensor()  # Lightning's raises here


def test_total_counters_are_those_that_a_loop_restores():
    progress = trainer().fit_loop.epoch_progress
    counts = dict.fromkeys(("ready", "started", "processed", "completed"), 6)
    progress.load_state_dict({"current": dict.fromkeys(counts, 2), "total": counts})
    assert private.counters(progress, total=True).processed == 6
    assert private.counters(progress).processed == 2


@pytest.mark.parametrize("divided", [True, False])
def test_adds_distributed_sampler(divided):
    assert private.adds_distributed_sampler(trainer(use_distributed_sampler=divided)) is divided


def test_counters_count_and_can_be_set():
    run = trainer()
    run.fit(Module(), DataLoader(TensorDataset(torch.zeros(3, 1))))
    batches = private.counters(run.fit_loop.epoch_loop.batch_progress)
    assert (batches.ready, batches.started, batches.processed, batches.completed) == (3, 3, 3, 3)
    assert private.counters(run.fit_loop.epoch_progress).processed == 1
    batches.processed = 2
    assert run.fit_loop.epoch_loop.batch_progress.state_dict()["current"]["processed"] == 2


def test_averaged_is_what_the_callback_validates_with():
    module, callback = Module(), EMAWeightAveraging(decay=0.5)
    run = trainer(callbacks=[callback], max_steps=1)
    run.fit(module, DataLoader(TensorDataset(torch.zeros(3, 1))))
    average = private.averaged(callback)
    assert type(average.module) is Module
    assert average.module is not module
    assert int(average.n_averaged) == 1


def test_begin_anew_reaches_the_loops_inside():
    loop = trainer(max_steps=5).fit_loop  # without it, Lightning begins anew by itself
    loop.load_state_dict(loop.state_dict())
    assert loop.restarting
    assert loop.epoch_loop.restarting
    private.begin_anew(loop)
    assert not loop.restarting
    assert not loop.epoch_loop.restarting


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forget_workers_leaves_torchs_handler_nothing_to_raise():
    from torch._C import _error_if_any_worker_fails

    def watched():
        loader = DataLoader(TensorDataset(torch.zeros(4, 1)), num_workers=1, persistent_workers=True)
        assert private.loader_workers(loader) == []
        private.forget_workers(loader)  # nothing to forget yet
        next(iter(loader))
        (worker,) = private.loader_workers(loader)
        assert worker.is_alive()
        return loader, worker

    def end(worker):
        worker.kill()
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is still there to be asked about
        _error_if_any_worker_fails()

    loader, worker = watched()
    private.forget_workers(loader)
    end(worker)
    private.forget_workers(loader)  # nothing is left to forget
    loader, worker = watched()  # and without it, it does
    with pytest.raises(RuntimeError, match="killed by signal"):
        end(worker)
    private.forget_workers(loader)


def test_deepspeed_is_configured_and_started_by_lightning():
    pytest.importorskip("deepspeed")
    strategy = create_autospec(DeepSpeedStrategy, instance=True)
    private.complete_deepspeed_config(strategy)
    strategy._init_config_if_needed.assert_called_once_with()
    for training in (True, False):
        private.start_deepspeed(strategy, training=training)
    strategy._initialize_deepspeed_train.assert_called_once_with(strategy.model)
    strategy._initialize_deepspeed_inference.assert_called_once_with(strategy.model)


def test_the_universal_form_is_a_setting_of_deepspeed(monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    config = pytest.importorskip("deepspeed.runtime.config").DeepSpeedConfig({"train_batch_size": 1})
    assert config.load_universal_checkpoint is False
    private.load_universal(SimpleNamespace(_config=config), True)
    assert config.load_universal_checkpoint is True


@pytest.mark.slow
def test_a_log_on_this_machine_loads_no_client_of_a_server(tmp_path):
    code = (
        "import sys; from swinmim import private; from lightning.pytorch.loggers import CSVLogger;"
        "private.leave_clients_unloaded() if sys.argv[2] == 'left' else None;"
        "log = CSVLogger(sys.argv[1]); log.log_hyperparams({'a': 1}); log.log_metrics({'b': 2.0}); log.save();"
        "print('gcsfs' in sys.modules, log.log_dir)"
    )
    pytest.importorskip("gcsfs")
    for number, (how, loaded) in enumerate([("left", False), ("as it is", True)]):
        command = [sys.executable, "-c", code, str(tmp_path), how]
        found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert found.stdout.split() == [str(loaded), str(tmp_path / "lightning_logs" / f"version_{number}")]


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="Linux tells what the CPU can do")
def test_bf16_of_the_cpu_follows_its_instructions():
    words = set(Path("/proc/cpuinfo").read_text().split())
    if "flags" not in words:
        pytest.skip("no x86")
    assert private.cpu_has_bf16() == bool({"avx512bw", "avx512vl", "avx512dq"} <= words or "avx_ne_convert" in words)
