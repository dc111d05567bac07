"""Connects a task to Lightning: batches in, loss and metrics out. Knows no task."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchmetrics import Metric

from data.loading.batch import Batch
from finetune.model import TaskModel, prepared
from finetune.task import Task
from finetune.worst import Worst
from swinmim.checkpoint.task_model import save_task_model
from swinmim.training.module import Build, Plan, Provenance, TrainingModule, measured
from swinmim.training.settings import RunConfig


class Judging:
    """How a task model is judged, the same in training and in `evaluate`."""

    network: nn.Module
    task: Task[Any]
    metrics: nn.ModuleDict
    mean: Tensor
    std: Tensor

    def judge(self, batch: Batch) -> Any:
        """Count a batch in the metrics; returns what the network gave."""
        output = self.task.infer(self.network, self.prepare(batch))
        self.task.update(dict(self.metrics.items()), output, batch)
        return output

    def prepare(self, batch: Batch) -> Any:
        """See `prepared`."""
        return prepared(batch["image"], self.mean, self.std)


class TaskModule(Judging, TrainingModule):
    """Supervised fine-tuning of an encoder for a task.

    network: encoder and head of the task. The others: see `TrainingModule`.
    """

    rules = ("bias", "norm", "logit_scale", "cpb_mlp")

    def __init__(
        self,
        network: TaskModel,
        task: Task[Any],
        config: RunConfig,
        plan: Plan,
        provenance: Provenance,
        build: Build | None = None,
    ) -> None:
        super().__init__(network, config, plan, provenance, build)
        self.task = task
        self.metrics = nn.ModuleDict(task.metrics())

    def training_loss(self, batch: Batch) -> Tensor:
        images_BCHW, batch = self.task.mix(self.prepare(batch), batch)
        return self.task.loss(self.network(images_BCHW, *self.task.teach(batch)), batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Count a batch; {"output": what the network gave}, for callbacks."""
        output = self.judge(batch)
        self.log_skipped("health/skipped_val_samples", batch["substituted"])
        return {"output": output}

    def describe(self) -> dict[str, Any]:
        return {"classes": list(self.task.subject.classes), "facts": dict(self.task.subject.facts)}

    def save_encoder_folder(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the encoder folder of the network's weights, with the head and what it means."""
        manifest = {**self.encoder_manifest(), "task": self.task.recorded(), "evaluation": self.task.evaluation()}
        save_task_model(cast(TaskModel, self.network).encoder, folder, weights, manifest)


class Evaluator(Judging, L.LightningModule):
    """A trained task model under Lightning, without anything that trains.

    Args:
        network, task: see `TaskModule`.
        mean, std: per channel, in 0..1 units, for normalisation.
        worst: how many of the images that are answered worst are kept.

    After a validation, on every rank: `values` (name -> number, as a run logs them, without val/), `details` (see
    `Task.details`), `worst`, `seen` images and `seconds` over all ranks.
    """

    def __init__(
        self, network: nn.Module, task: Task[Any], mean: tuple[float, ...], std: tuple[float, ...], worst: int
    ) -> None:
        super().__init__()
        self.network, self.task = network, task
        self.metrics = nn.ModuleDict(task.metrics() | task.detailed_metrics())
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)
        self.values: dict[str, float] = {}
        self.details: dict[str, Any] = {}
        self.worst = Worst(task, worst)
        self.seen = self.skipped = 0
        self.seconds = 0.0

    def on_validation_epoch_start(self) -> None:
        self._begun = time.perf_counter()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        output = self.judge(batch)
        self.seen += int(batch["valid"].sum())
        self.skipped += int(batch["substituted"].sum())
        if self.worst.count:
            self.worst.add(output, batch)

    def on_validation_epoch_end(self) -> None:
        self.seconds = time.perf_counter() - self._begun
        metrics = cast(dict[str, Metric], dict(self.metrics.items()))
        self.details = self.task.details(metrics)
        told = self.task.metrics().keys()
        counted = measured({name: metric for name, metric in metrics.items() if name in told})
        self.values = {name: float(value) for name, value in counted}
        if self.trainer.world_size > 1:
            parts: list[Any] = [None] * self.trainer.world_size
            dist.all_gather_object(parts, (self.worst.answers, self.seen, self.skipped, self.seconds))
            for rank, part in enumerate(parts):
                if rank != self.trainer.global_rank:
                    self.worst.merge(part[0])
            self.seen, self.skipped = sum(part[1] for part in parts), sum(part[2] for part in parts)
            self.seconds = max(part[3] for part in parts)
