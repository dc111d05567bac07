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


def micro_batch_seed(trainer: L.Trainer, seed: int, batch_idx: int) -> int:
    """`step_seed` of a micro-batch of the epoch under way, on this rank."""
    position = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx
    return step_seed(seed, position, trainer.global_rank)


def seed_all(seed: int) -> None:
    """Python, numpy and torch on all devices."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class StepRandomness(Callback):
    """Seeds python, numpy and torch (all devices) before each micro-batch: drop path, mixup, erasing."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        seed_all(micro_batch_seed(trainer, self.seed, batch_idx))
