"""Every random number of a step follows from (seed, step, rank): a resumed run draws what the first would have."""

import hashlib
import random
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback


def step_seed(seed: int, batch: int, rank: int) -> int:
    """32-bit seed of one micro-batch on one rank."""
    key = f"step/{seed}/{batch}/{rank}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")


class StepRandomness(Callback):
    """Seeds python, numpy and torch (all devices) before each micro-batch: drop path, mixup, erasing.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        position = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx
        seed = step_seed(self.seed, position, trainer.global_rank)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
