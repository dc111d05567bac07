"""Say what torch.compile made, and how long it took."""

import logging
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from swinmim.models.compiled import CompileCount

log = logging.getLogger(__name__)


class Compilation(Callback):
    """One line after the first step, and a warning after each later one in which torch had to compile again."""

    def __init__(self) -> None:
        self.count = CompileCount()
        self.told = 0, 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.count.open()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        (graphs, seconds), told = (self.count.graphs, self.count.seconds), self.told
        if graphs == told[0] or not trainer.is_global_zero:
            return
        self.told = graphs, seconds
        if told[0] == 0:
            log.info("compile: %d graphs in %.1f s", graphs, seconds)
        else:
            log.warning(
                "compile: %d more graphs in %.1f s, at step %d. Batches of new shapes cost this time each.",
                graphs - told[0],
                seconds - told[1],
                trainer.global_step,
            )

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.count.close()

    on_exception = on_train_end
