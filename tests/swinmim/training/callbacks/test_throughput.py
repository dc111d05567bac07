"""Images per second over several epochs, without what lies between them."""

import time
from types import SimpleNamespace

import pytest
import torch

from swinmim.training.callbacks.throughput import Throughput


def test_epochs_shorter_than_the_interval_are_measured_together(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    rows = []
    logger = SimpleNamespace(log_metrics=lambda values, step: rows.append((step, values)))
    trainer = SimpleNamespace(global_step=4, log_every_n_steps=5, loggers=[logger])
    module = SimpleNamespace(device=torch.device("cpu"))
    callback = Throughput(global_batch_size=8)
    callback.on_train_start(trainer, module)  # resumed after 4 steps, inside an epoch
    for epoch in range(4):
        if epoch:
            now += 100.0  # validating and saving
            callback.on_train_epoch_start(trainer, module)
        for micro_batch in range(6):  # three steps
            now += 1.0
            callback.on_train_batch_start(trainer, module)
            now += 3.0
            trainer.global_step += micro_batch % 2
            callback.on_train_batch_end(trainer, module)
    assert [step for step, _ in rows] == [5, 10, 15]
    for step, values in rows:
        assert values["perf/images_per_s"] == pytest.approx(1.0)  # 8 images in 2 x 4 s
        assert values["perf/data_wait_ratio"] == pytest.approx(0.25)
        assert values["samples_seen"] == 8 * step
