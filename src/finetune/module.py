"""Connects a classifier to Lightning: batches in, loss and accuracy out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from data.loading.batch import Batch
from data.loading.normalise import normalise
from finetune.config import FinetuneConfig
from finetune.metrics import classification_metrics
from finetune.tasks.classify import Classifier, Mixing, classification_loss
from swinmim.checkpoint.encoder import HEAD, save_encoder
from swinmim.training.finite import poison
from swinmim.training.module import Plan, TrainingModule


class ClassifyModule(TrainingModule):
    """Supervised fine-tuning of an encoder for classification.

    Args:
        model: encoder and head.
        config: recipe.
        plan: steps and batch.
        classes: class names, in the order of the labels.
        mean, std: per channel, in 0..1 units, for normalisation.
        manifest: fields for the encoder folder's manifest.
        build: makes a model that is still on the meta device, see `TrainingModule`.
    """

    def __init__(
        self,
        model: Classifier,
        config: FinetuneConfig,
        plan: Plan,
        *,
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        manifest: Mapping[str, Any],
        build: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__(
            model,
            optim=config.optim,
            schedule=config.schedule,
            plan=plan,
            depths=model.encoder.architecture.depths,
            rules=("bias", "norm", "logit_scale", "cpb_mlp"),
            mean=mean,
            std=std,
            manifest=manifest,
            build=build,
        )
        self.task = config.task
        self.classes = classes
        self.mixing = Mixing(config.task, len(classes))
        self.val_accuracy = classification_metrics(len(classes))
        self.val_loss = MeanMetric()

    @property
    def model(self) -> Classifier:
        return cast(Classifier, self.network)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch)
        self.log_training(loss)
        self.log_skipped("health/skipped_samples", batch["substituted"])
        return poison(loss)

    def training_loss(self, batch: Batch) -> Tensor:
        images_BCHW = self.prepare(batch)
        images_BCHW, target = self.mixing(images_BCHW, batch["label"])
        return classification_loss(self.model(images_BCHW), target, self.task.label_smoothing)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logits = self.model(self.prepare(batch)).float()
        valid = batch["valid"]
        logits, label = logits[valid], batch["label"][valid]
        if len(label):
            for metric in self.val_accuracy.values():
                metric.update(logits, label)  # type: ignore[operator]
            self.val_loss.update(F.cross_entropy(logits, label), weight=len(label))
        self.log_skipped("health/skipped_val_samples", batch["substituted"])

    def on_validation_epoch_end(self) -> None:
        for name, metric in self.val_accuracy.items():
            self.log(f"val/{name}", metric.compute())  # type: ignore[operator]
            metric.reset()  # type: ignore[operator]
        self.log("val/loss", self.val_loss.compute())
        self.val_loss.reset()
        self.log("samples_seen", self.samples_seen)

    def prepare(self, batch: Batch) -> Tensor:
        """uint8 (B, H, W, C) -> normalised float32 (B, C, H, W)."""
        return normalise(batch["image"], self.mean, self.std)

    def save_encoder_folder(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the encoder folder of the model's weights, with the head and the class names."""
        under_timm = {
            name.removeprefix("encoder.") if name.startswith("encoder.") else name.replace("head.", HEAD, 1): weight
            for name, weight in weights.items()
        }
        task = {"kind": self.task.kind, "classes": list(self.classes)}
        manifest = {**self.encoder_manifest(), "task": task}
        save_encoder(self.model.encoder, folder, manifest=manifest, head=self.model.head, weights=under_timm)
