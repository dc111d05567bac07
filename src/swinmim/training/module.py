"""What the training modules share: the step, optimizer, clipping, and the facts that go into an encoder folder."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import Metric

from swinmim.config import schema
from swinmim.models.swinv2 import SwinV2
from swinmim.optim.build import build_optimizer
from swinmim.training.finite import FiniteGuard, poison
from swinmim.training.settings import RunConfig
from swinmim.training.strategies.base import Answers


def measured(metrics: Mapping[str, Metric]) -> Iterator[tuple[str, Any]]:
    """The numbers of metrics, of one that computes a dict each of its, after which they start anew."""
    for name, metric in metrics.items():
        value = metric.compute()
        yield from value.items() if isinstance(value, dict) else [(name, value)]
        metric.reset()


Build = Callable[[], nn.Module]
"""Makes a network with its first weights."""


@schema
class Plan:
    """The steps of a run, derived once from settings, data and world size; printed and logged, never written back."""

    global_batch_size: int
    accumulation: int
    steps_per_epoch: int
    total_steps: int


@schema
class Provenance:
    """Where a run's weights come from, for the manifest of its encoder folder."""

    mean: tuple[float, ...]
    """Per channel, in 0..1 units, for normalisation."""
    std: tuple[float, ...]
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Method and settings."""
    data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parent: str | None = None
    """The encoder folder that the run started from."""
    parents: tuple[Mapping[str, Any], ...] = ()
    """That one and those before it, see `checkpoint.manifest.Ancestor`."""


class TrainingModule(L.LightningModule):
    """Base of the Lightning modules; a child gives the loss, validation, and what it saves.

    Args:
        network: what is optimised, its SwinV2 at `encoder`; parameter names follow timm's layout.
        config: optimizer and schedule.
        plan: steps and batch.
        provenance: for the manifest; its mean and deviation are kept as buffers `mean` and `std`.
        build: makes the same network, where that is on the meta device and the strategy partitions it as it is built.
    """

    rules: tuple[str, ...]
    """No-decay rules that must match (`optim.param_groups.NO_DECAY`)."""
    metrics: nn.ModuleDict
    """Of validation, logged as val/NAME; each computes one number, or a dict of them, each logged as val/KEY."""
    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, config: RunConfig, plan: Plan, provenance: Provenance, build: Build | None = None
    ) -> None:
        super().__init__()
        self.network = network
        self.optim, self.schedule, self.plan = config.optim, config.schedule, plan
        self.provenance, self.build = provenance, build
        self.guard = FiniteGuard()
        self._losses: list[Tensor] = []  # of the micro-batches of the step under way
        self._losses_of = self.validated = -1  # at which step
        self.register_buffer("mean", torch.tensor(provenance.mean), persistent=False)
        self.register_buffer("std", torch.tensor(provenance.std), persistent=False)

    @property
    def strategy(self) -> Answers:
        """The trainer's, one of `training/strategies`."""
        return cast(Answers, self.trainer.strategy)

    def configure_model(self) -> None:
        """Build a partitioned network (ZeRO-3), once the ranks know each other; other networks are there already."""
        if self.build is None:
            return
        self.strategy.materialise(self.network, self.build)
        self.build = None
        # DeepSpeed leaves what it finds partitioned on its device, buffers and metrics included
        device = self.trainer.strategy.root_device
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        for child in self.children():
            if child is not self.network:
                child.to(device)

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = build_optimizer(
            self.network,
            self.optim,
            self.schedule,
            depths=cast(SwinV2, self.network.encoder).architecture.depths,
            rules=self.rules,
            global_batch_size=self.plan.global_batch_size,
            total_steps=self.plan.total_steps,
            steps_per_epoch=self.plan.steps_per_epoch,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: int | float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        if self.strategy.clips():
            return
        assert gradient_clip_val is not None
        norm = nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        optimizer.found_inf = self.guard.judge(norm)
        self.log("train/grad_norm", norm)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Find the position of the data also where a checkpoint has it under the name of an earlier class."""
        for name in ("PretrainData", "ClassifyData"):
            if name in checkpoint:
                checkpoint["ShardData"] = checkpoint.pop(name)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.training_loss(batch)
        self.log_training(loss)
        self.log_skipped("health/skipped_samples", batch["substituted"])
        return poison(loss)

    def on_validation_epoch_end(self) -> None:
        self.validated = self.global_step
        for name, number in measured(cast(dict[str, Metric], self.metrics)):
            self.log(f"val/{name}", number)
        self.log("samples_seen", self.samples_seen)

    @abstractmethod
    def training_loss(self, batch: Any) -> Tensor:
        """Mean loss of a micro-batch on the device, without logging and without a trainer."""

    @abstractmethod
    def save_encoder_folder(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write the encoder folder of the network's weights, as `full_weights` gave them, on rank 0."""

    def describe(self) -> dict[str, Any]:
        """What it takes to build this module again, beside the settings: plain values, for a bundle for replay."""
        return {}

    def on_train_batch_end(self, *_: Any) -> None:
        if (norm := self.strategy.grad_norm()) is not None:
            self.log("train/grad_norm", norm)

    def full_weights(self) -> dict[str, Tensor]:
        """The network's state dict, see `Answers.full_weights`."""
        return self.strategy.full_weights(self.network)

    def log_training(self, loss: Tensor) -> None:
        """Mean loss of the step's micro-batches so far (charts show the last), rate, and the charts' x-axis."""
        if self._losses_of != self.global_step:
            self._losses, self._losses_of = [], self.global_step
        self._losses.append(loss.detach())
        scheduler = self.lr_schedulers()
        self.log("train/loss", torch.stack(self._losses).mean())
        self.log("train/lr", scheduler.get_last_lr()[-1])  # type: ignore[union-attr]
        self.log("samples_seen", self.samples_seen)

    def log_skipped(self, name: str, substituted: Tensor) -> None:
        """Images that could not be decoded, summed over the epoch and all ranks."""
        self.log(name, substituted.sum().float(), on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)

    @property
    def samples_seen(self) -> float:
        """Images that the weights have been trained on, counted per optimizer step."""
        return float(self.global_step * self.plan.global_batch_size)

    def encoder_manifest(self) -> dict[str, Any]:
        """The manifest's fields with the metrics of these very weights, if they are finite."""
        measured = ("train/", "health/", *(["val/"] if self.validated == self.global_step else []))
        logged = {n: float(value) for n, value in self.trainer.callback_metrics.items() if n.startswith(measured)}
        metrics = {name: value for name, value in logged.items() if math.isfinite(value)}  # JSON knows no others
        progress = {"epochs": self.global_step / self.plan.steps_per_epoch, "samples_seen": self.samples_seen}
        return dataclasses.asdict(self.provenance) | {"metrics": metrics | progress}
