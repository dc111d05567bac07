"""One fine-tuning run: encoder folder and labelled images -> task model."""

import dataclasses
import functools
import logging
from pathlib import Path
from typing import Any

import lightning as L
import torch

from data.loading.module import ShardData
from data.loading.stats import Stats, resolve_stats
from data.loading.views import CenterCrop, ClassifyAugment
from data.open import labelled_data, loader_settings
from data.order.epoch import accumulation
from data.shards.set import ImageSet
from finetune.config import ClassifyConfig, FinetuneConfig
from finetune.module import ClassifyModule
from finetune.tasks.classify import Classifier
from swinmim.checkpoint.encoder import describe_encoder, load_encoder, load_manifest
from swinmim.config import ModelConfig, config_errors
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


def run(config: FinetuneConfig, output_dir: Path) -> dict[str, float]:
    """Fine-tune, and leave the task model at `output_dir/encoder`, its best epoch at `output_dir/checkpoints/best`.

    Returns:
        The last value of every metric.

    Raises:
        UserError: whatever in settings, data or checkpoints keeps the run from starting.
    """
    check_world(config.trainer, config.strategy)
    steps = accumulation(config.global_batch_size, config.trainer.world_size, config.batch_size)
    partitioned = config.strategy.partitions_parameters
    with torch.device("meta"):
        shape = build_encoder(config, load_weights=False)
    check_memory(sum(p.numel() for p in shape.parameters()), config.trainer, config.strategy)
    L.seed_everything(config.seed, verbose=False)
    datamodule = build_data(config, shape)
    mean, std = resolve_stats(config.data, datamodule.train, encoder_stats(config))
    if partitioned:
        with torch.device("meta"):
            model = Classifier(shape, len(datamodule.classes))
    else:
        model = build_model(config, len(datamodule.classes))
    if config.compile:
        model.encoder.compile_blocks()
    plan = make_plan(config, accumulation=steps, num_samples=datamodule.num_train)
    module = ClassifyModule(
        model,
        config,
        plan,
        classes=datamodule.classes,
        mean=mean,
        std=std,
        manifest=manifest(config, datamodule.train, mean, std),
        build=functools.partial(build_model, config, len(datamodule.classes)) if partitioned else None,
    )
    metrics = train(
        config,
        module,
        datamodule,
        label="finetune",
        callbacks=[Checkpoints(output_dir, config.callbacks.checkpoint, dataclasses.asdict(config))],
        derived=derived(config, model, datamodule, plan),
        output_dir=output_dir,
    )
    if is_main():
        log.info("%s", verdict(metrics, output_dir))
    return metrics


def build_model(config: FinetuneConfig, num_classes: int) -> Classifier:
    """The encoder with a new head; errors as `build_encoder`."""
    return Classifier(build_encoder(config), num_classes)


def build_encoder(config: FinetuneConfig, *, load_weights: bool = True) -> SwinV2:
    """The pretrained encoder at the run's resolution, or a new one for the from-scratch baseline.

    With `load_weights` off, `ckpt` gives its shape alone, on the meta device.

    Raises:
        ConfigError: a resolution that does not fit.
        CheckpointError: `ckpt` is no encoder folder, or does not cover the encoder.
    """
    with config_errors():
        if config.ckpt is not None:
            build = load_encoder if load_weights else describe_encoder
            return build(config.ckpt, **config.encoder_options())
        assert isinstance(config.model, ModelConfig)
        return SwinV2(
            get_architecture(config.model.name, **config.model.overrides()),
            **config.encoder_options(),
        )


def encoder_stats(config: FinetuneConfig) -> Stats | None:
    """The normalisation that the encoder was pretrained with."""
    if config.ckpt is None:
        return None
    origin = load_manifest(config.ckpt)
    return tuple(origin.mean), tuple(origin.std)


def build_data(config: FinetuneConfig, encoder: SwinV2) -> ShardData:
    """Labelled training and validation images.

    Raises:
        ConfigError: the set's channels are not the encoder's.
        DataError: no labels, too few of them, or too few images.
    """
    task, size = config.task, encoder.resolution
    settings = loader_settings(
        config.data, size, seed=config.seed, global_batch=config.global_batch_size, batch_size=config.batch_size
    )
    view = ClassifyAugment(
        size, scale=task.crop_scale, num_ops=task.randaug_ops, magnitude=task.randaug_magnitude, flip=task.flip
    )
    data = labelled_data(config.data, view, CenterCrop(size, task.crop_ratio), settings, channels=encoder.in_chans)
    require_augmentable(task, data.train)
    return data


def require_augmentable(task: ClassifyConfig, shards: ImageSet) -> None:
    """RandAugment must know such images.

    Raises:
        ConfigError: it does not.
    """
    if task.randaug_ops and not (shards.channels in (1, 3) and shards.bits == 8):
        raise ConfigError(
            f"RandAugment knows 1 or 3 channels of 8 bits, got {shards.channels} of {shards.bits}."
            " Add task.randaug_ops=0 task.randaug_magnitude=0."
        )


def manifest(
    config: FinetuneConfig, shards: ImageSet, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, Any]:
    """What the folder says about its origin."""
    recipe = {
        "method": "supervised fine-tuning",
        "task": dataclasses.asdict(config.task),
        "optim": dataclasses.asdict(config.optim),
        "schedule": dataclasses.asdict(config.schedule),
        "max_epochs": config.trainer.max_epochs,
        "global_batch_size": config.global_batch_size,
        "labels_per_class": config.data.labels_per_class,
        "seed": config.seed,
    }
    data = {"fingerprint": shards.fingerprint, "samples": len(shards)}
    return {"mean": mean, "std": std, "recipe": recipe, "data": data, "parent": config.ckpt}


def derived(config: FinetuneConfig, model: Classifier, datamodule: ShardData, plan: Plan) -> dict[str, object]:
    """What follows from the settings, for the start of the log and `derived/`."""
    encoder = model.encoder
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "classes": len(datamodule.classes),
        "images": datamodule.num_train,
        "validation_images": datamodule.num_val,
        "resolution": f"{encoder.resolution[0]}x{encoder.resolution[1]}",
        "windows": ", ".join(f"{h}x{w}" for h, w in (stage.window for stage in encoder.stages)),
        "pretrained_windows": ", ".join(f"{h}x{w}" for h, w in encoder.pretrained_windows),
        "peak_lr": peak_lr(config.optim.base_lr, config.global_batch_size),
        "warmup_steps": warmup_steps(config.schedule, plan.steps_per_epoch),
        "steps_per_epoch": plan.steps_per_epoch,
        "total_steps": plan.total_steps,
        "accumulation": plan.accumulation,
        "precision": resolve_precision(config.trainer),
    }


def verdict(metrics: dict[str, float], output_dir: Path) -> str:
    """How good, where is the result, what comes next."""
    lines = []
    if "val/top1" in metrics:
        lines.append(f"validation top-1 {100 * metrics['val/top1']:.2f} %")
    lines.append(f"model     {output_dir / 'encoder'}")
    lines.append(f"next      timm.create_model('local-dir:{output_dir / 'encoder'}', pretrained=True)")
    return "\n".join(lines)
