"""What both training modules share: optimizer, clipping, and the numbers that go into an encoder folder."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn

from swinmim.config import schema
from swinmim.optim.build import OptimConfig, build_optimizer
from swinmim.optim.schedules import ScheduleConfig
from swinmim.training.finite import FiniteGuard
from swinmim.training.strategies.build import full_weights
from swinmim.training.strategies.zero import ZeroStrategy


@schema
class Plan:
    """The steps of a run, derived once from settings, data and world size; printed and logged, never written back."""

    global_batch_size: int
    accumulation: int
    steps_per_epoch: int
    total_steps: int


class TrainingModule(L.LightningModule):
    """Base of the Lightning modules.

    Args:
        network: what is optimised; parameter names follow timm's layout.
        optim, schedule: settings.
        plan: steps and batch.
        depths: blocks per stage of the encoder.
        rules: no-decay rules that must match (`optim.param_groups.NO_DECAY`).
        mean, std: per channel, in 0..1 units; kept as buffers `mean` and `std`.
        manifest: fields for the encoder folder's manifest.
        build: makes the same network with its first weights, where `network` is on the meta device and the strategy
            partitions it as it is built.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        optim: OptimConfig,
        schedule: ScheduleConfig,
        plan: Plan,
        depths: Sequence[int],
        rules: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        manifest: Mapping[str, Any],
        build: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.optim, self.schedule, self.plan = optim, schedule, plan
        self.depths, self.rules = depths, rules
        self.manifest = manifest
        self.guard = FiniteGuard()
        self.build = build
        self._losses: list[Tensor] = []  # of the micro-batches of the step under way
        self._losses_of = -1
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def configure_model(self) -> None:
        """Build a partitioned network (ZeRO-3), once the ranks know each other; other networks are there already."""
        strategy = self.trainer.strategy
        if self.build is None or not isinstance(strategy, ZeroStrategy):
            return
        strategy.materialise(self.network, self.build)
        self.build = None
        # DeepSpeed leaves what it finds partitioned on its device, buffers and metrics included
        self.mean, self.std = self.mean.to(strategy.root_device), self.std.to(strategy.root_device)
        for child in self.children():
            if child is not self.network:
                child.to(strategy.root_device)

    def configure_optimizers(self) -> Any:
        optimizer, scheduler = build_optimizer(
            self.network,
            self.optim,
            self.schedule,
            depths=self.depths,
            rules=self.rules,
            global_batch_size=self.plan.global_batch_size,
            total_steps=self.plan.total_steps,
            steps_per_epoch=self.plan.steps_per_epoch,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if isinstance(self.trainer.strategy, ZeroStrategy):
            return  # DeepSpeed clips as it steps
        assert gradient_clip_val is not None
        norm = nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val)
        optimizer.found_inf = self.guard.judge(norm)
        self.log("train/grad_norm", norm)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Find the position of the data also where a checkpoint has it under the name of an earlier class."""
        for name in ("PretrainData", "ClassifyData"):
            if name in checkpoint:
                checkpoint["ShardData"] = checkpoint.pop(name)

    @abstractmethod
    def training_loss(self, batch: Any) -> torch.Tensor:
        """Mean loss of a micro-batch on the device, without logging and without a trainer."""

    def on_train_batch_end(self, *_: Any) -> None:
        strategy = self.trainer.strategy
        if isinstance(strategy, ZeroStrategy) and (norm := strategy.grad_norm()) is not None:
            self.log("train/grad_norm", norm)

    def full_weights(self) -> dict[str, Tensor]:
        """The network's state dict; gathered on rank 0 where it is partitioned, so all ranks must call it."""
        return full_weights(self.trainer.strategy, self.network)

    def log_training(self, loss: torch.Tensor) -> None:
        """Mean loss of the step's micro-batches so far (charts show the last), rate, and the charts' x-axis."""
        if self._losses_of != self.global_step:
            self._losses, self._losses_of = [], self.global_step
        self._losses.append(loss.detach())
        scheduler = self.lr_schedulers()
        self.log("train/loss", torch.stack(self._losses).mean())
        self.log("train/lr", scheduler.get_last_lr()[-1])  # type: ignore[union-attr]
        self.log("samples_seen", self.samples_seen)

    def log_skipped(self, name: str, substituted: torch.Tensor) -> None:
        """Images that could not be decoded, summed over the epoch and all ranks."""
        self.log(name, substituted.sum().float(), on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)

    @property
    def samples_seen(self) -> float:
        """Images that the weights have been trained on, counted per optimizer step."""
        return float(self.global_step * self.plan.global_batch_size)

    def encoder_manifest(self) -> dict[str, Any]:
        """The manifest's fields with the newest metrics that are finite."""
        logged = {name: float(value) for name, value in self.trainer.callback_metrics.items() if "/" in name}
        metrics = {name: value for name, value in logged.items() if math.isfinite(value)}  # JSON knows no others
        progress = {"epochs": float(self.current_epoch + 1), "samples_seen": self.samples_seen}
        return {**self.manifest, "metrics": metrics | progress}
