"""After the last validation, the images that were answered worst."""

import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed
from lightning.pytorch.callbacks import Callback

from data.loading.dataset import still
from data.loading.module import ShardData
from finetune.drawing.answers import draw_answers
from finetune.task import Task
from finetune.worst import Worst, write_table

log = logging.getLogger(__name__)

NAME = "hard_examples"


class HardExamples(Callback):
    """Writes `OUTPUT/hard_examples.csv` and `.png`, for a task that judges single images.

    The module's `validation_step` must return {"output": what the network gave}.
    """

    def __init__(self, output_dir: Path, task: Task[Any]) -> None:
        self.output_dir, self.task = output_dir, task
        self.worst = Worst(task)
        self.counts = False

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.worst = Worst(self.task)
        self.counts = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        if self.counts:
            self.worst.add(outputs["output"], batch)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        parts = [self.worst.answers]
        if trainer.world_size > 1:
            parts = [[] for _ in range(trainer.world_size)]
            torch.distributed.all_gather_object(parts, self.worst.answers)
            self.worst = Worst(self.task)
            for part in parts:
                self.worst.merge(part)
        if trainer.is_global_zero and self.worst.answers:
            self._write(trainer.datamodule)  # type: ignore[attr-defined]

    def _write(self, data: ShardData) -> None:
        shards, settings, answers = data.val, data.settings, self.worst.answers
        records = [shards.read(one.image) for one in answers]
        images = [still(record.data, shards, data.eval_view, settings) for record in records]
        write_table(self.output_dir / f"{NAME}.csv", answers, [record.name for record in records])
        truth, said = [one.truth for one in answers], [one.row for one in answers]
        draw_answers(self.task, images, truth, said).save(self.output_dir / f"{NAME}.png")
        log.info(
            "worst     %s, %s.csv: the validation images that are answered worst", self.output_dir / f"{NAME}.png", NAME
        )
