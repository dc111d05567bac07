"""Where a run starts, what it says first, and what it leaves behind."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import lightning as L

from swinmim.checkpoint import io
from swinmim.errors import CheckpointError
from swinmim.report import settings
from swinmim.training.module import Plan, TrainingModule
from swinmim.training.wandb import finish_wandb

log = logging.getLogger(__name__)


def plan_steps(*, global_batch_size: int, accumulation: int, num_samples: int, max_epochs: int, max_steps: int) -> Plan:
    """Optimizer steps of a run; an epoch is the whole number of global batches that the set holds."""
    steps_per_epoch = num_samples // global_batch_size
    total = max_epochs * steps_per_epoch
    return Plan(
        global_batch_size=global_batch_size,
        accumulation=accumulation,
        steps_per_epoch=steps_per_epoch,
        total_steps=total if max_steps == -1 else min(total, max_steps),
    )


def starting_state(resume: str | None, output_dir: Path) -> Path | None:
    """The trainer state to continue from: the newest complete checkpoint of output_dir (auto), or the one named.

    Raises:
        CheckpointError: a named checkpoint is missing or incomplete.
    """
    if resume is None:
        return None
    if resume != "auto":
        return io.find(Path(resume)) / io.STATE
    found, skipped = io.newest(output_dir / "checkpoints")
    for reason in skipped:
        log.warning("resume=auto: passed over %s", reason)
    if found is None:
        log.info("resume=auto: %s has no checkpoint yet, so the run starts anew", output_dir)
        return None
    return found / io.STATE


def fit(
    trainer: L.Trainer,
    module: TrainingModule,
    datamodule: L.LightningDataModule,
    *,
    resume: str | None,
    output_dir: Path,
    derived: Mapping[str, object],
    num_val: int,
) -> dict[str, float]:
    """Print and log the derived values, train, validate the last weights, and write `metrics.json`.

    Args:
        trainer, module, datamodule: the run.
        resume: as in the settings.
        output_dir: directory of the run.
        derived: name -> value, for the start of the log.
        num_val: images of the validation set; without any, nothing is validated.

    Returns:
        The last value of every metric.

    Raises:
        CheckpointError: the state to resume from belongs to another model.
    """
    state = starting_state(resume, output_dir)
    if trainer.is_global_zero:
        log.info(
            "%s",
            settings({**derived, "start": f"checkpoint {state.parent}" if state else "step 0", "output": output_dir}),
        )
        numbers = {f"derived/{name}": value for name, value in derived.items() if isinstance(value, int | float)}
        for logger in trainer.loggers:
            logger.log_hyperparams(numbers)
    try:
        trainer.fit(module, datamodule=datamodule, ckpt_path=state, weights_only=True)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if module.validated_at != trainer.global_step and num_val:
            # Lightning does not validate where max_steps ends inside an epoch, or between two validation epochs
            trainer.validate(module, datamodule=datamodule, verbose=False)
            metrics |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    except RuntimeError as error:
        if state is not None and "Error(s) in loading state_dict" in str(error):
            raise CheckpointError(f"resume: {state} does not fit this model. {error}") from error
        raise
    finally:
        if trainer.is_global_zero:
            finish_wandb()
    if trainer.is_global_zero:
        (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics
