"""The private names that we use are still there, and mean what we take them for."""

import os

import lightning.pytorch as pl
import pytest
import torch
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
    return pl.Trainer(**{"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False} | quiet | options)


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


def test_begin_anew_reaches_the_loops_inside():
    loop = trainer(max_epochs=-1, max_steps=5).fit_loop
    loop.restarting = False  # what the public setter makes of it
    assert loop.restarting
    assert loop.epoch_loop.restarting
    private.begin_anew(loop)
    assert not loop.restarting
    assert not loop.epoch_loop.restarting


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forget_workers_leaves_torchs_handler_nothing_to_raise():
    from torch._C import _error_if_any_worker_fails

    def watched():
        batches = iter(DataLoader(TensorDataset(torch.zeros(4, 1)), num_workers=1))
        next(batches)
        (worker,) = batches._workers
        return batches, worker

    def end(worker):
        worker.kill()
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        _error_if_any_worker_fails()

    batches, worker = watched()
    private.forget_workers(batches)
    end(worker)
    private.forget_workers(batches)  # nothing is left to forget
    private.forget_workers(None)
    batches, worker = watched()  # and without it, it does
    with pytest.raises(RuntimeError, match="killed by signal"):
        end(worker)
    private.forget_workers(batches)
