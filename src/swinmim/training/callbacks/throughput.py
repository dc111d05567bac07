"""perf/: images per second, share of time spent waiting for data, peak device memory."""

import time
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback


class Throughput(Callback):
    """Measures between two log steps, so that it never waits for the device by itself."""

    def __init__(self, global_batch_size: int) -> None:
        self.global_batch_size = global_batch_size

    def _reset(self, step: int) -> None:
        self.window_step = step
        self.elapsed = self.waited = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._reset(trainer.global_step)
        self.batch_ended = time.perf_counter()  # a run that is resumed inside an epoch does not start one

    def on_train_epoch_start(self, *_: Any) -> None:
        self.batch_ended = time.perf_counter()  # validation and saving between epochs are not training time

    def on_train_batch_start(self, *_: Any) -> None:
        self.waited += time.perf_counter() - self.batch_ended

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self.elapsed += time.perf_counter() - self.batch_ended
        steps = trainer.global_step - self.window_step
        if steps and trainer.global_step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            values = {
                "perf/images_per_s": steps * self.global_batch_size / self.elapsed,
                "perf/data_wait_ratio": self.waited / self.elapsed,
            }
            if pl_module.device.type == "cuda":
                values["perf/memory_gib"] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
            for logger in trainer.loggers:
                logger.log_metrics(
                    values | {"samples_seen": float(trainer.global_step * self.global_batch_size)},
                    step=trainer.global_step,
                )
            self._reset(trainer.global_step)
        self.batch_ended = time.perf_counter()
