"""One fine-tuning run: encoder folder and labelled images -> task model."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf
from torch import nn

from data.loading.modules import ClassifyData
from data.loading.stats import Stats, resolve_stats
from data.loading.views import ClassifyAugment
from data.open import open_labelled
from data.order.epoch import accumulation
from data.order.subsets import few_labels, split
from data.shards.set import require_labels
from data.write.writer import WriteOptions
from finetune.config import FinetuneConfig
from finetune.module import ClassifyModule
from finetune.tasks.classify import Classifier
from swinmim.checkpoint.encoder import describe_encoder, load_encoder, load_manifest
from swinmim.config import ModelConfig, config_errors, load
from swinmim.errors import ConfigError
from swinmim.models.architecture import get_architecture
from swinmim.models.swinv2 import SwinV2
from swinmim.training.callbacks.checkpoint import Monitor
from swinmim.training.execute import execute
from swinmim.training.module import Plan, Provenance


def run(config: FinetuneConfig, output_dir: Path) -> dict[str, float]:
    """Fine-tune, and leave the task model at `output_dir/encoder`; returns and raises as `execute`."""
    return execute(FinetuneParts(config), config, output_dir)


class FinetuneParts:
    """The parts of a fine-tuning run, see `swinmim.training.execute`."""

    command = "finetune"
    monitor: Monitor = ("val/top1", "max")

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config

    def accumulation(self) -> int:
        return accumulation(self.config.global_batch_size, self.config.trainer.world_size, self.config.batch_size)

    def shape(self) -> SwinV2:
        return build_encoder(self.config, load_weights=False)

    def data(self, shape: SwinV2) -> ClassifyData:
        return build_data(self.config, shape)

    def statistics(self, data: ClassifyData) -> Stats:
        return resolve_stats(self.config.data, data.train, encoder_stats(self.config))

    def network(self, data: ClassifyData, *, load_weights: bool = True) -> Classifier:
        return Classifier(build_encoder(self.config, load_weights=load_weights), len(data.classes))

    def module(
        self,
        network: Classifier,
        data: ClassifyData,
        plan: Plan,
        provenance: Provenance,
        build: Callable[[], nn.Module] | None,
    ) -> ClassifyModule:
        return ClassifyModule(network, self.config, plan, provenance, build, classes=data.classes)

    def recipe(self) -> dict[str, Any]:
        return {
            "method": "supervised fine-tuning",
            "task": dataclasses.asdict(self.config.task),
            "labels_per_class": self.config.data.labels_per_class,
        }

    def derived(self, network: Classifier, data: ClassifyData) -> dict[str, object]:
        encoder = network.encoder
        return {
            "classes": len(data.classes),
            "validation_images": len(data.val_indices),
            "resolution": f"{encoder.resolution[0]}x{encoder.resolution[1]}",
            "pretrained_windows": ", ".join(f"{h}x{w}" for h, w in encoder.pretrained_windows),
        }

    def callbacks(self, output_dir: Path) -> Sequence[Callback]:
        return ()

    def verdict(self, metrics: Mapping[str, float], output_dir: Path) -> str:
        """How good, where is the result, what comes next."""
        lines = []
        if "val/top1" in metrics:
            lines.append(f"validation top-1 {100 * metrics['val/top1']:.2f} %")
        lines.append(f"model     {output_dir / 'encoder'}")
        lines.append(f"next      timm.create_model('local-dir:{output_dir / 'encoder'}', pretrained=True)")
        return "\n".join(lines)


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


def build_data(config: FinetuneConfig, encoder: SwinV2) -> ClassifyData:
    """Labelled training and validation images.

    Raises:
        ConfigError: the set's channels are not the encoder's.
        DataError: no labels, too few of them, or too few images.
    """
    options = WriteOptions(resize=config.data.pack_resize, quality=config.data.pack_quality)
    cache = config.data.cache_folder()
    fetch = functools.partial(
        open_labelled, cache_bytes=config.data.cache_bytes, allow_insecure=config.data.allow_insecure
    )
    train, val = fetch(config.data.path, cache, options)
    train_indices = val_indices = None
    if config.data.val_path is not None:
        val = require_labels(fetch(config.data.val_path, cache, options)[0])
    elif val is None:
        val = train
        train_indices, val_indices = split(len(train), config.data.val_ratio, seed=0)
    if train.channels != encoder.in_chans:
        raise ConfigError(f"{config.data.path} has {train.channels} channels and the encoder takes {encoder.in_chans}.")
    if config.data.labels_per_class is not None:
        chosen = few_labels(
            (train.labels if train_indices is None else train.labels[train_indices]).astype("int64"),
            config.data.labels_per_class,
            config.seed,
        )
        train_indices = chosen if train_indices is None else train_indices[chosen]
    task = config.task
    return ClassifyData(
        train,
        train_indices,
        val,
        val_indices,
        resolution=encoder.resolution,
        seed=config.seed,
        global_batch=config.global_batch_size,
        batch_size=config.batch_size,
        num_workers=config.data.num_workers,
        augment=ClassifyAugment(
            encoder.resolution, scale=task.crop_scale, num_ops=task.randaug_ops, magnitude=task.randaug_magnitude
        ),
        crop_ratio=task.crop_ratio,
        max_bad_fraction=config.data.max_bad_fraction,
        decoder=config.data.decoder,
        lanes=config.data.lanes,
    )


def rebuild(info: Mapping[str, Any]) -> ClassifyModule:
    """The module of a replay bundle, uncompiled, without its weights (see `swinmim.training.replay`)."""
    config = load(FinetuneConfig, OmegaConf.create(info["config"]))
    model = Classifier(build_encoder(config), len(info["classes"]))
    provenance = Provenance(mean=info["mean"], std=info["std"])
    return ClassifyModule(model, config, Plan(**info["plan"]), provenance, classes=info["classes"])
