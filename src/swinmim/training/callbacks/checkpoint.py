"""Save trainer state and encoder folder at fixed steps and at each epoch's end; keep the last ones and the best."""

from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from swinmim.checkpoint import io
from swinmim.config import schema


@schema
class CheckpointConfig:
    every_epochs: int = 1
    """Epochs between checkpoints; the last epoch is always saved."""
    every_steps: int | None = None
    """Optimizer steps between further checkpoints inside an epoch; null saves at epoch ends only."""
    keep_last: int = 2
    monitor: str | None = None
    """Validation metric whose best checkpoint is kept as well."""
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        if self.every_epochs < 1 or self.keep_last < 1:
            raise ValueError("every_epochs and keep_last must be at least 1")


class Checkpoints(Checkpoint):
    """Writes `OUTPUT/checkpoints/step_*`, the links `last` and `best` beside them, and `OUTPUT/encoder`.

    Args:
        output_dir: directory of the run.
        config: when to save and what to keep.

    The module must have `full_weights()` and `save_encoder_folder(folder, weights)`.
    """

    def __init__(self, output_dir: Path, config: CheckpointConfig) -> None:
        self.output_dir = output_dir
        self.root = output_dir / "checkpoints"
        self.config = config
        self.best_score: float | None = None
        self.best_folder: str | None = None
        self.last_saved_step = -1

    def state_dict(self) -> dict[str, Any]:
        return {"best_score": self.best_score, "best_folder": self.best_folder}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best_score, self.best_folder = state_dict["best_score"], state_dict["best_folder"]

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        every = self.config.every_steps
        # steps inside an accumulation do not change global_step; the first of them has been saved already
        if every and trainer.global_step % every == 0 and trainer.global_step != self.last_saved_step:
            self.save(trainer, pl_module)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        improved = self._improved(trainer)
        if last or improved or (trainer.current_epoch + 1) % self.config.every_epochs == 0:
            self.save(trainer, pl_module, best=improved)

    @classmethod
    def of(cls, trainer: L.Trainer) -> "Checkpoints":
        """The one of a trainer."""
        return next(callback for callback in trainer.checkpoint_callbacks if isinstance(callback, cls))

    def save_now(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save this step, unless it has just been saved; all ranks call it."""
        if self.last_saved_step != trainer.global_step:
            self.save(trainer, pl_module)

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule, *, best: bool = False) -> None:
        """Write one checkpoint; all ranks call it, rank 0 writes what is not sharded."""
        folder = io.step_folder(self.root, trainer.global_step)
        if best:
            self.best_folder = folder.name
        partial = self.root / f".{folder.name}.partial"
        if trainer.is_global_zero:
            io.begin(folder)
        trainer.strategy.barrier("checkpoint folder made")
        trainer.save_checkpoint(partial / io.STATE)
        weights = pl_module.full_weights()  # type: ignore[operator]
        if trainer.is_global_zero:
            pl_module.save_encoder_folder(partial / "encoder", weights)  # type: ignore[operator]
            io.commit(partial, folder)
            io.point(self.root / "last", folder)
            io.point(self.output_dir / "encoder", folder / "encoder")
            kept = []
            if self.best_folder is not None:
                io.point(self.root / "best", self.root / self.best_folder)
                kept.append(self.root / self.best_folder)
            io.prune(self.root, self.config.keep_last, kept)
        trainer.strategy.barrier("checkpoint committed")
        self.last_saved_step = trainer.global_step

    def _improved(self, trainer: L.Trainer) -> bool:
        if self.config.monitor is None or self.config.monitor not in trainer.callback_metrics:
            return False
        score = float(trainer.callback_metrics[self.config.monitor])
        better = self.best_score is None or (
            score < self.best_score if self.config.mode == "min" else score > self.best_score
        )
        if better:
            self.best_score = score
        return better
