"""Connects a classifier to Lightning: batches in, loss and accuracy out."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from data.loading.batch import LabelledBatch
from data.loading.normalise import normalise, random_flip
from finetune.config import FinetuneConfig
from finetune.metrics import classification_metrics
from finetune.tasks.classify import Classifier, Mixing, classification_loss
from swinmim.checkpoint.task_model import save_task_model
from swinmim.training.module import Plan, Provenance, TrainingModule


class ClassifyModule(TrainingModule):
    """Supervised fine-tuning of an encoder for classification.

    Args:
        model: encoder and head.
        config: recipe.
        plan: steps and batch.
        provenance, build: see `TrainingModule`.
        classes: class names, in the order of the labels.
    """

    def __init__(
        self,
        model: Classifier,
        config: FinetuneConfig,
        plan: Plan,
        provenance: Provenance,
        build: Callable[[], nn.Module] | None = None,
        *,
        classes: Sequence[str],
    ) -> None:
        rules = ("bias", "norm", "logit_scale", "cpb_mlp")
        super().__init__(model, config, plan, provenance, rules=rules, build=build)
        self.task = config.task
        self.classes = classes
        self.mixing = Mixing(config.task, len(classes))
        self.val_accuracy = classification_metrics(len(classes))
        self.val_loss = MeanMetric()

    @property
    def model(self) -> Classifier:
        return cast(Classifier, self.network)

    def training_loss(self, batch: LabelledBatch) -> Tensor:
        images_BCHW = self.prepare(batch, flip=self.task.flip)
        images_BCHW, target = self.mixing(images_BCHW, batch["label"])
        return classification_loss(self.model(images_BCHW), target, self.task.label_smoothing)

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        logits = self.model(self.prepare(batch, flip=False)).float()
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

    def prepare(self, batch: LabelledBatch, *, flip: bool) -> Tensor:
        """uint8 (B, H, W, C) -> normalised float32 (B, C, H, W), flipped at random where asked."""
        image_BHWC = random_flip(batch["image"], batch["seed"]) if flip else batch["image"]
        return normalise(image_BHWC, self.mean, self.std)

    def describe(self) -> dict[str, Any]:
        return {"classes": list(self.classes)}

    def save_encoder_folder(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the encoder folder of the model's weights, with the head and the class names."""
        task = {"kind": self.task.kind, "classes": list(self.classes)}
        save_task_model(self.model.encoder, folder, weights, {**self.encoder_manifest(), "task": task})
