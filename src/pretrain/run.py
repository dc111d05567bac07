"""One pretraining run: settings -> data, model, trainer -> encoder folder."""

import dataclasses
import logging
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import nn

from data.loading.modules import PretrainData, pretrain_data
from data.loading.stats import resolve_stats
from data.open import open_data
from data.order.epoch import accumulation
from data.shards.set import ImageSet, SampleSet
from data.shards.streamed import StreamSet
from pretrain.config import PretrainConfig
from pretrain.masking import mask_grid, num_masked
from pretrain.module import PretrainModule
from pretrain.reconstructions import Reconstructions
from pretrain.simmim import SimMIM
from swinmim.checkpoint.encoder import describe_encoder, load_encoder
from swinmim.config import config_errors
from swinmim.distributed import is_main
from swinmim.errors import ConfigError
from swinmim.models.architecture import get_architecture
from swinmim.models.swinv2 import SwinV2
from swinmim.optim.schedules import peak_lr, warmup_steps
from swinmim.training.callbacks.checkpoint import Checkpoints
from swinmim.training.fit import make_plan, train
from swinmim.training.module import Plan
from swinmim.training.trainer import check_memory, check_world, resolve_precision

log = logging.getLogger(__name__)


def run(config: PretrainConfig, output_dir: Path) -> dict[str, float]:
    """Pretrain, and leave the encoder folder at `output_dir/encoder`.

    Returns:
        The last value of every metric.

    Raises:
        UserError: whatever in settings, data or checkpoints keeps the run from starting.
    """
    check_world(config.trainer, config.strategy)
    steps = accumulation(config.global_batch_size, config.trainer.world_size, config.batch_size)
    with torch.device("meta"):
        shape = build_model(config, load_weights=False)
    check_memory(num_parameters(shape), config.trainer, config.strategy)
    shards = open_data(config.data)
    mean, std = resolve_stats(config.data, shards)
    L.seed_everything(config.seed, verbose=False)
    partitioned = config.strategy.partitions_parameters
    model = shape if partitioned else build_model(config)
    if config.compile:
        model.encoder.compile_blocks()
    datamodule = build_data(config, shards, model.encoder.resolution)
    plan = make_plan(config, accumulation=steps, num_samples=len(datamodule.train_indices))
    module = PretrainModule(
        model,
        config,
        plan,
        mean=mean,
        std=std,
        manifest=manifest(config, shards, mean, std),
        build=partial(build_model, config) if partitioned else None,
    )
    metrics = train(
        config,
        module,
        datamodule,
        label="pretrain",
        callbacks=[
            Reconstructions(output_dir, config.callbacks.reconstructions),
            Checkpoints(output_dir, config.callbacks.checkpoint, dataclasses.asdict(config)),
        ],
        derived=derived(config, model, plan, len(datamodule.train_indices), len(datamodule.val_indices)),
        output_dir=output_dir,
    )
    if is_main():
        log.info("%s", verdict(metrics, output_dir))
    return metrics


def build_model(config: PretrainConfig, *, load_weights: bool = True) -> SimMIM:
    """SimMIM around the configured encoder; with `load_weights` off, `ckpt` gives its shape alone.

    Raises:
        ConfigError: a resolution, window, mask unit or width that does not fit.
        CheckpointError: `ckpt` cannot be loaded.
    """
    with config_errors():
        architecture = get_architecture(config.model.name, **config.model.overrides())
        if config.ckpt is not None:
            build = load_encoder if load_weights else describe_encoder
            encoder = build(config.ckpt, **config.encoder_options())
            if encoder.architecture != architecture:
                raise ConfigError(
                    f"ckpt={config.ckpt} is a {encoder.architecture.name}, the run asks for {config.model.name} "
                    f"({encoder.architecture} against {architecture}). Add model={encoder.architecture.name}."
                )
        else:
            encoder = SwinV2(
                architecture,
                **config.encoder_options(),
            )
        return SimMIM(
            encoder, mask_unit=config.mim.mask_unit, mask_ratio=config.mim.mask_ratio, target=config.mim.target
        )


def build_data(config: PretrainConfig, shards: SampleSet | StreamSet, resolution: tuple[int, int]) -> PretrainData:
    """Training images, and a held-out part that is the same for every run on the set.

    Raises:
        ConfigError: the set's channels are not the model's.
        DataError: the set is too small.
    """
    if shards.channels != config.model.in_chans:
        raise ConfigError(
            f"{config.data.path} has {shards.channels} channels and model.in_chans={config.model.in_chans}. "
            f"Add model.in_chans={shards.channels}."
        )
    return pretrain_data(
        config.data,
        shards,
        resolution=resolution,
        seed=config.seed,
        global_batch=config.global_batch_size,
        batch_size=config.batch_size,
        scale=config.augment.scale,
        ratio=config.augment.ratio,
    )


def num_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())


def manifest(
    config: PretrainConfig, shards: ImageSet, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    """What the encoder folder says about its origin."""
    recipe = {
        "method": "SimMIM",
        "mim": dataclasses.asdict(config.mim),
        "augment": dataclasses.asdict(config.augment),
        "optim": dataclasses.asdict(config.optim),
        "schedule": dataclasses.asdict(config.schedule),
        "max_epochs": config.trainer.max_epochs,
        "global_batch_size": config.global_batch_size,
        "seed": config.seed,
    }
    data = {"fingerprint": shards.fingerprint, "samples": len(shards)}
    return {"mean": mean, "std": std, "recipe": recipe, "data": data, "parent": config.ckpt}


def derived(config: PretrainConfig, model: SimMIM, plan: Plan, num_train: int, num_val: int) -> dict[str, object]:
    """What follows from the settings, for the start of the log and `derived/`."""
    encoder: SwinV2 = model.encoder
    grid = mask_grid(encoder.resolution, model.mask_unit)
    return {
        "parameters": num_parameters(model),
        "images": num_train,
        "held_out_images": num_val,
        "windows": ", ".join(f"{h}x{w}" for h, w in (stage.window for stage in encoder.stages)),
        "masked_units": f"{num_masked(grid, model.mask_ratio)} of {grid[0] * grid[1]}",
        "peak_lr": peak_lr(config.optim.base_lr, config.global_batch_size),
        "warmup_steps": warmup_steps(config.schedule, plan.steps_per_epoch),
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": plan.total_steps,
        "accumulation": plan.accumulation,
        "precision": resolve_precision(config.trainer),
    }


def verdict(metrics: dict[str, float], output_dir: Path) -> str:
    """Is it learning, where is the result, what comes next."""
    lines = []
    if "val/recon_loss" in metrics:
        lines.append(
            f"held-out masked L1 {metrics['val/recon_loss']:.4f}; painting the mean colour gives "
            f"{metrics['val/mean_baseline']:.4f}, blurring the visible pixels {metrics['val/blur_baseline']:.4f}"
        )
    if (pictures := output_dir / "reconstructions").is_dir():  # streams hold nothing out to draw
        lines.append(f"pictures  {pictures}")
    lines.append(f"encoder   {output_dir / 'encoder'}")
    lines.append(f"next      python -m finetune ckpt={output_dir} data.path=LABELLED_FOLDER resolution=...")
    return "\n".join(lines)
