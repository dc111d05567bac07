"""Steps with a non-finite loss or gradient are not taken; too many in a row end the run; spikes may be passed by.

The device decides whether a step is taken (`training/finite.py`); this callback reads what it decided one step later,
names the samples, and acts. The schedule, the step counter and the data go on over a skipped step: they say what the
run has seen. Weights, moments and Adam's own step count stay.
"""

import dataclasses
import json
import logging
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from swinmim.checkpoint import io
from swinmim.errors import ConfigError, DivergedError
from swinmim.training.callback_settings import StabilityConfig
from swinmim.training.callbacks.averaging import Averaging
from swinmim.training.callbacks.checkpoint import Checkpoints
from swinmim.training.callbacks.randomness import micro_batch_seed
from swinmim.training.faults.border import Border, sum_over_ranks
from swinmim.training.finite import FiniteGuard, is_spike
from swinmim.training.module import TrainingModule
from swinmim.training.replay import MicroBatch, write_bundle

log = logging.getLogger(__name__)

NAMED = 4
"""Samples in a message; all are in the file."""


@dataclasses.dataclass
class _Step:
    number: int
    micro_batches: list[MicroBatch]


class Stability(Callback):
    """Counts in `health/nan_steps`, writes `OUTPUT/stability_rankN.jsonl`.

    origin: what a replay needs to build the module again (see `replay.write_bundle`). The data module must have
    `host_batch`, the batch under way as it lay before it went to the device, and `sample_names(indices)`.
    """

    def __init__(self, output_dir: Path, config: StabilityConfig, *, seed: int, origin: dict[str, Any]) -> None:
        self.output_dir, self.config, self.seed, self.origin = output_dir, config, seed, origin
        self.guard = FiniteGuard(config.max_nonfinite_steps)
        self._border = Border()
        self._number = 0
        self._now = _Step(-1, [])
        self._before = self._now
        self._history: deque[float] = deque(maxlen=config.spike_window)
        self._after_rewind: Path | None = None

    def state_dict(self) -> dict[str, Any]:
        total = self.guard.total if self.guard.state is None else float(self.guard.state[2])
        under_way = self._border.peek()
        watched = self.config.spike_threshold is not None and under_way is not None and not under_way[0]
        latest = [under_way[4]] if watched and under_way else []
        return {"nonfinite_steps": total, "losses": [*self._history, *latest]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.guard.total = state_dict["nonfinite_steps"]
        self._history.extend(state_dict["losses"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, TrainingModule)
        pl_module.guard = self.guard
        if self.config.spike_threshold is not None and not pl_module.strategy.goes_back():
            raise ConfigError(
                "callbacks.stability.spike_threshold goes back to a checkpoint within the run, which works with "
                "strategy=single and strategy=ddp only. Set it to null."
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._number = trainer.global_step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, number: int) -> None:
        self._now.micro_batches.append(
            MicroBatch(
                batch=trainer.datamodule.host_batch,  # type: ignore[attr-defined]
                epoch=trainer.current_epoch,
                number=number,
                seed=micro_batch_seed(trainer, self.seed, number),
            )
        )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, number: int
    ) -> None:
        assert isinstance(pl_module, TrainingModule)
        self._now.micro_batches[-1].loss = outputs["loss"]
        if trainer.global_step != self._number:  # not inside an accumulation
            self._number = trainer.global_step
            self._step_done(trainer, pl_module)

    def _step_done(self, trainer: L.Trainer, pl_module: TrainingModule) -> None:
        values = self._border.read()
        if values is not None and self._act(trainer, pl_module, values):
            self._now = _Step(-1, [])
            return
        self._now.number = trainer.global_step
        self._before, self._now = self._now, _Step(-1, [])
        if pl_module.strategy.clips():  # it passes over a step by itself; here it is counted
            norm = pl_module.strategy.grad_norm()
            self.guard.judge(torch.tensor(norm or 0.0, device=pl_module.device))
        assert self.guard.state is not None
        assert self.guard.norm is not None
        losses = torch.stack([micro.loss for micro in self._before.micro_batches if micro.loss is not None]).float()
        mean = losses.mean()
        if self.config.spike_threshold is not None:
            mean = sum_over_ranks(mean) / trainer.world_size
        self._border.put(torch.cat([torch.stack([*self.guard.state, self.guard.norm.float(), mean]), losses]))
        pl_module.log("health/nan_steps", self.guard.state[2])

    def _act(self, trainer: L.Trainer, pl_module: TrainingModule, values: Sequence[float]) -> bool:
        """Look at the step before this one; True when the weights were set back."""
        bad, in_a_row, _, norm, mean, *losses = values
        if bad:
            self._report(trainer, norm, losses)
            if in_a_row >= self.config.max_nonfinite_steps:
                self._stop(trainer, pl_module, losses)
        elif self.config.spike_threshold is not None:
            full = len(self._history) == self.config.spike_window
            if full and is_spike(mean, self._history, self.config.spike_threshold):
                return self._go_back(trainer, pl_module, mean)
            self._history.append(mean)
        return False

    def _report(self, trainer: L.Trainer, norm: float, losses: Sequence[float]) -> None:
        micro_batches = _non_finite(self._before.micro_batches, losses)
        if not micro_batches and not trainer.is_global_zero:
            return  # another rank, or all of them in the backward pass
        names = self._names(trainer, micro_batches)
        self._write(
            trainer,
            event="non-finite step",
            step=self._before.number,
            grad_norm=str(norm),
            losses=[str(loss) for loss in losses],
            samples=names,
        )
        where = f"loss not finite on rank {trainer.global_rank}" if micro_batches else "loss finite on rank 0"
        more = f" and {len(names) - NAMED} more, see stability_rank{trainer.global_rank}.jsonl" * (len(names) > NAMED)
        log.warning(
            "step %d is not taken: gradient norm %s, %s. %s",
            self._before.number,
            norm,
            where,
            f"Samples: {', '.join(names[:NAMED])}{more}" if names else "",
        )

    def _stop(self, trainer: L.Trainer, pl_module: TrainingModule, losses: Sequence[float]) -> None:
        """All ranks: save the weights, which no non-finite step has touched, write the bundle, end."""
        offending = _non_finite(self._before.micro_batches, losses)
        anywhere = sum_over_ranks(torch.tensor([len(offending)], device=pl_module.device))
        checkpoints = Checkpoints.of(trainer)
        checkpoints.save_now(trainer, pl_module)
        folder = write_bundle(
            self.output_dir / "replay" / f"step_{self._before.number:08d}",
            pl_module,
            offending if int(anywhere) else self._before.micro_batches,
            rank=trainer.global_rank,
            names=lambda micro_batch: self._names(trainer, [micro_batch]),
            origin={**self.origin, "step": self._before.number, "checkpoint": str(checkpoints.root / "last")},
        )
        raise DivergedError(
            f"loss or gradients were not finite for {self.config.max_nonfinite_steps} steps in a row, up to step "
            f"{self._before.number}. The weights are those from before; they are saved in {checkpoints.root}. "
            f"To see where it begins: python scripts/replay.py {folder}"
        )

    def _go_back(self, trainer: L.Trainer, pl_module: TrainingModule, loss: float) -> bool:
        spiked, checkpoints = self._before.number, Checkpoints.of(trainer)
        sound = (folder for folder in sorted(checkpoints.root.glob("step_*"), reverse=True) if not io.problem(folder))
        before = next((folder for folder in sound if folder.name < io.step_folder(checkpoints.root, spiked).name), None)
        seen = f"the loss of step {spiked} is {loss:.4g}, the median of the {len(self._history)} before it is "
        seen += f"{sorted(self._history)[len(self._history) // 2]:.4g}"
        if before is None:
            log.warning("%s; there is no checkpoint to go back to yet", seen)
            return False
        if before == self._after_rewind:  # no step since then was good for a checkpoint of its own
            raise DivergedError(
                f"{seen}, right after the weights were set back. Go on from an older checkpoint than {before.name} "
                "(resume=PATH) with a lower optim.base_lr, or set callbacks.stability.spike_threshold=null."
            )
        payload = torch.load(before / io.STATE, map_location="cpu", weights_only=True)
        rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
        pl_module.load_state_dict(payload["state_dict"])
        trainer.strategy.load_optimizer_state_dict(payload)
        if (average := Averaging.of(trainer)) is not None:
            average.on_load_checkpoint(trainer, pl_module, payload)
        for group, rate in zip(trainer.optimizers[0].param_groups, rates, strict=True):
            group["lr"] = rate  # the schedule follows the data, which go on
        first = int(before.name.removeprefix("step_")) + 1
        if trainer.is_global_zero:
            log.warning(
                "%s: weights and optimizer are those of %s again; the batches of steps %d to %d are passed by",
                *(seen, before.name, first, trainer.global_step),
            )
            self._write(trainer, event="rewind", step=spiked, loss=loss, first=first, last=trainer.global_step)
        checkpoints.save_now(trainer, pl_module)  # a run killed from here on must not meet the spike again
        self._after_rewind = io.step_folder(checkpoints.root, trainer.global_step)
        return True

    def _names(self, trainer: L.Trainer, micro_batches: Sequence[MicroBatch]) -> list[str]:
        indices = [index for micro_batch in micro_batches for index in micro_batch.batch["index"].tolist()]
        names: list[str] = trainer.datamodule.sample_names(indices)  # type: ignore[attr-defined]
        return names

    def _write(self, trainer: L.Trainer, **event: Any) -> None:
        with (self.output_dir / f"stability_rank{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps(event) + "\n")


def _non_finite(micro_batches: Sequence[MicroBatch], losses: Sequence[float]) -> list[MicroBatch]:
    pairs = zip(micro_batches, losses, strict=True)
    return [micro_batch for micro_batch, loss in pairs if not math.isfinite(loss)]
