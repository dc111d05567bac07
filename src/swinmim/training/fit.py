"""Where a run starts, what it says first, and what it leaves behind."""

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from swinmim.checkpoint import io
from swinmim.distributed import is_main
from swinmim.errors import CheckpointError, ConfigError
from swinmim.optim.schedules import lr_factor, misfits
from swinmim.tables import pairs
from swinmim.training.callbacks.averaging import Averaging
from swinmim.training.callbacks.compilation import Compilation
from swinmim.training.callbacks.last_validation import LastValidation
from swinmim.training.callbacks.progress import Progress
from swinmim.training.callbacks.randomness import StepRandomness
from swinmim.training.callbacks.throughput import Throughput
from swinmim.training.callbacks.validations import Validations
from swinmim.training.drift import check_drift
from swinmim.training.faults.emergency import Emergency
from swinmim.training.faults.heartbeat import Heartbeat
from swinmim.training.faults.signals import Signals
from swinmim.training.faults.stability import Stability
from swinmim.training.module import Plan, TrainingModule
from swinmim.training.settings import RunConfig
from swinmim.training.state_io import unfit
from swinmim.training.trainer import build_loggers, build_trainer, resolve_precision
from swinmim.training.wandb import finish_wandb

log = logging.getLogger(__name__)

CURVE_POINTS = 50
"""At least so many points of each curve, where the run has as many steps."""


def make_plan(config: RunConfig, *, accumulation: int, num_samples: int) -> Plan:
    """Optimizer steps of a run; an epoch is the whole number of global batches that the set holds.

    Raises ConfigError: the schedule does not fit the length of the run.
    """
    steps_per_epoch, total = _steps(config, config.global_batch_size, num_samples)
    lr_factor(config.schedule, base_lr=config.optim.base_lr, total_steps=total, steps_per_epoch=steps_per_epoch)
    return Plan(
        global_batch_size=config.global_batch_size,
        accumulation=accumulation,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
    )


def smaller_batch(config: RunConfig, images: int, lanes: int, fits: Callable[[int, int], bool] | None = None) -> str:
    """The way out for a set that does not give a global batch: one line of overrides with which the run fits.

    Args:
        config: of the run.
        images: of the training set.
        lanes: `data.lanes`.
        fits: whether a global batch in so many lanes can be made of the set; None where any up to `images` can.

    Returns:
        empty where no batch fits.
    """
    world = config.trainer.world_size
    if images < world:
        return f"Each of {world} processes needs at least one: take at most {images}."
    batch = min(config.batch_size, images // world)
    while not (whole := _largest_batch(images, world * batch, lanes, fits)):
        if batch == 1:
            return ""
        batch //= 2
    line = [f"global_batch_size={whole}"]
    if batch != config.batch_size:
        line.append(f"batch_size={batch}")
    if whole % lanes:
        line.append(f"data.lanes={math.gcd(lanes, whole)}")
    steps_per_epoch, total = _steps(config, whole, images)
    line += [override for _, override in misfits(config.schedule, total, steps_per_epoch)]
    return f"Add {' '.join(line)}."


def _largest_batch(images: int, unit: int, lanes: int, fits: Callable[[int, int], bool] | None) -> int:
    """The largest multiple of a unit that a set gives; 0 where there is none."""
    multiples = range(images // unit * unit, 0, -unit)
    return next((whole for whole in multiples if fits is None or fits(whole, math.gcd(lanes, whole))), 0)


def _steps(config: RunConfig, global_batch: int, num_samples: int) -> tuple[int, int]:
    """Optimizer steps of an epoch, and of the whole run."""
    steps_per_epoch = num_samples // global_batch
    total, limit = config.trainer.max_epochs * steps_per_epoch, config.trainer.max_steps
    return steps_per_epoch, total if limit == -1 else min(total, limit)


def starting_state(config: RunConfig, output_dir: Path, own: Mapping[str, Tensor]) -> Path | None:
    """The trainer state to continue from: the newest sound checkpoint of output_dir (auto), or the one named.

    own: the module's tensors, which those of the newest must fit.

    Raises CheckpointError: a named checkpoint is missing, incomplete or damaged, or all of output_dir's are;
    ConfigError: the settings are not those of the checkpoint.
    """
    settings = dataclasses.asdict(config)

    def unusable(folder: Path) -> str | None:
        check_drift(io.read_config(folder), settings, config.allow_drift)  # the more telling reason
        return unfit(folder, own)

    match config.resume:
        case None:
            found = None
        case "auto":
            found = io.find_newest(output_dir / "checkpoints", unusable)
            if found is None:
                log.info("resume=auto: %s has no checkpoint yet, so the run starts anew", output_dir)
        case path:
            found = io.find(Path(path))
            check_drift(io.read_config(found), settings, config.allow_drift)
    if found is None:
        if config.allow_drift:
            raise ConfigError("allow_drift has no effect on a run that starts anew. Remove it, or add resume=...")
        return None
    return found / io.STATE


def train(
    config: RunConfig,
    module: TrainingModule,
    datamodule: L.LightningDataModule,
    *,
    command: str,
    callbacks: Sequence[Callback],
    derived: Mapping[str, object],
    output_dir: Path,
) -> dict[str, float]:
    """Print and log the derived values, train, validate the last weights, and write `metrics.json`.

    command: pretrain or finetune, the word before the progress bar. callbacks: those of the run beside seeding,
    throughput, progress and the answers to faults. Returns the last value of every metric, on every rank; none where a
    resumed run had nothing left to train.

    Raises:
        CheckpointError: the state to resume from is missing or belongs to another model, or none can be written.
        Stopped: a signal ended the run, with everything saved.
        DivergedError: loss or gradients stayed non-finite.
        ConfigError: a resumed run has other settings.
    """
    state = starting_state(config, output_dir, module.state_dict())
    log_every = min(config.trainer.log_every_steps, max(1, module.plan.total_steps // CURVE_POINTS))
    derived = {**derived, "log_every_steps": log_every}
    signals = Signals()
    settings = dataclasses.asdict(config)
    origin = {"label": command, "config": settings, "precision": resolve_precision(config.trainer), **module.describe()}
    trainer = build_trainer(
        config,
        accumulation=module.plan.accumulation,
        log_every=log_every,
        callbacks=[
            StepRandomness(config.seed),
            *([] if config.callbacks.ema_decay is None else [Averaging(config.callbacks.ema_decay)]),
            Throughput(config.global_batch_size),
            Progress(command, config.global_batch_size),
            Heartbeat(config.callbacks.heartbeat),
            Emergency(),
            Stability(output_dir, config.callbacks.stability, seed=config.seed, origin=origin),
            signals,
            LastValidation(),
            Validations(),
            *([Compilation()] if config.compile else []),
            *callbacks,
        ],
        loggers=build_loggers(config.logger, output_dir, settings) if is_main() else [],
        output_dir=output_dir,
    )
    if trainer.is_global_zero:
        log.info(
            "%s", pairs({**derived, "start": f"checkpoint {state.parent}" if state else "step 0", "output": output_dir})
        )
        for logger in trainer.loggers:
            logger.log_hyperparams({f"derived/{name}": value for name, value in derived.items()})
    try:
        with signals:
            trainer.fit(module, datamodule=datamodule, ckpt_path=state, weights_only=True)
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    except RuntimeError as error:
        if state is not None and "Error(s) in loading state_dict" in str(error):
            raise CheckpointError(f"resume: {state} does not fit this model. {error}") from error
        raise
    except OSError as error:
        if output_dir.is_dir():
            raise
        raise CheckpointError(io.gone(output_dir)) from error
    finally:
        if trainer.is_global_zero:
            finish_wandb()
    if not metrics:
        log.info(
            "resume: nothing is left to train, step %d is the last one of this run. To go on, raise trainer.max_epochs"
            " or trainer.max_steps and name it in allow_drift=[...].",
            trainer.global_step,
        )
    elif trainer.is_global_zero:
        (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    return metrics
