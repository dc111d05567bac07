"""Connects a task to Lightning: batches in, loss and metrics out. Knows no task."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from data.loading.batch import Batch
from data.loading.normalise import normalise
from finetune.model import TaskModel
from finetune.task import Task
from swinmim.checkpoint.task_model import save_task_model
from swinmim.training.module import Build, Plan, Provenance, TrainingModule
from swinmim.training.settings import RunConfig


class TaskModule(TrainingModule):
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
        output = self.task.infer(self.network, self.prepare(batch))
        self.task.update(dict(self.metrics.items()), output, batch)
        self.log_skipped("health/skipped_val_samples", batch["substituted"])
        return {"output": output}

    def prepare(self, batch: Batch) -> Any:
        """uint8 (B, H, W, C) -> normalised float32 (B, C, H, W); of a list a list of (C, H_i, W_i)."""
        images = batch["image"]
        if isinstance(images, list):
            return [normalise(image[None], self.mean, self.std)[0] for image in images]
        return normalise(images, self.mean, self.std)

    def describe(self) -> dict[str, Any]:
        return {"classes": list(self.task.subject.classes), "facts": dict(self.task.subject.facts)}

    def save_encoder_folder(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the encoder folder of the network's weights, with the head and what it means."""
        manifest = {**self.encoder_manifest(), "task": self.task.describe(), "evaluation": self.task.evaluation()}
        save_task_model(cast(TaskModel, self.network).encoder, folder, weights, manifest)
