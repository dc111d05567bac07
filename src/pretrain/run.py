"""One pretraining run: settings -> data, model, trainer -> encoder folder."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from data.loading.module import ShardData, StreamData
from data.loading.stats import Stats, resolve_stats
from data.loading.views import CenterCrop, RandomCrop
from data.open import loader_settings, open_data, pretrain_data
from data.order.epoch import accumulation
from pretrain.config import PretrainConfig
from pretrain.masking import mask_grid, num_masked
from pretrain.module import PretrainModule
from pretrain.reconstructions import Reconstructions
from pretrain.simmim import SimMIM
from swinmim.checkpoint.encoder import load_encoder
from swinmim.config import config_errors, load
from swinmim.errors import ConfigError
from swinmim.models.architecture import get_architecture
from swinmim.models.swinv2 import SwinV2
from swinmim.training.callbacks.checkpoint import Monitor
from swinmim.training.execute import execute
from swinmim.training.module import Build, Plan, Provenance
from swinmim.training.replay import Info


def run(config: PretrainConfig, output_dir: Path) -> dict[str, float]:
    """Pretrain, and leave the encoder folder at `output_dir/encoder`; returns and raises as `execute`."""
    return execute(PretrainParts(config), config, output_dir)


class PretrainParts:
    """The parts of a pretraining run, see `swinmim.training.execute`."""

    command = "pretrain"
    monitor: Monitor = ("val/recon_loss", "min")

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config

    def accumulation(self) -> int:
        return accumulation(self.config.global_batch_size, self.config.trainer.world_size, self.config.batch_size)

    def shape(self) -> SimMIM:
        return build_model(self.config)

    def data(self, shape: SimMIM) -> ShardData | StreamData:
        """Training images, and a held-out part that is the same for every run on the set.

        Raises ConfigError: the set's channels are not the model's; DataError: the set is too small.
        """
        config = self.config
        shards = open_data(config.data)
        if shards.channels != config.model.in_chans:
            raise ConfigError(
                f"{config.data.path} has {shards.channels} channels and model.in_chans={config.model.in_chans}. "
                f"Add model.in_chans={shards.channels}."
            )
        size = shape.encoder.resolution
        settings = loader_settings(
            config.data, size, seed=config.seed, global_batch=config.global_batch_size, batch_size=config.batch_size
        )
        view = RandomCrop(size, config.augment.scale, config.augment.ratio)
        return pretrain_data(config.data, shards, view, CenterCrop(size, 1.0), settings)

    def statistics(self, data: ShardData | StreamData) -> Stats:
        return resolve_stats(self.config.data, data.train)

    def network(self, data: ShardData | StreamData) -> SimMIM:
        return build_model(self.config)

    def module(self, network: SimMIM, plan: Plan, provenance: Provenance, build: Build | None) -> PretrainModule:
        return PretrainModule(network, self.config, plan, provenance, build)

    def recipe(self) -> dict[str, Any]:
        mim, augment = dataclasses.asdict(self.config.mim), dataclasses.asdict(self.config.augment)
        return {"method": "SimMIM", "mim": mim, "augment": augment}

    def derived(self, network: SimMIM, data: ShardData | StreamData) -> dict[str, object]:
        grid = mask_grid(network.encoder.resolution, network.mask_unit)
        return {
            "held_out_images": data.num_val,
            "masked_units": f"{num_masked(grid, network.mask_ratio)} of {grid[0] * grid[1]}",
        }

    def callbacks(self, output_dir: Path) -> Sequence[Callback]:
        return [Reconstructions(output_dir, self.config.callbacks.reconstructions)]

    def verdict(self, metrics: Mapping[str, float], output_dir: Path) -> str:
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


def build_model(config: PretrainConfig) -> SimMIM:
    """SimMIM around the configured encoder.

    Raises ConfigError: a resolution, window, mask unit or width that does not fit; CheckpointError: `ckpt` cannot be
    loaded.
    """
    with config_errors():
        architecture = get_architecture(config.model.name, **config.model.overrides())
        if config.ckpt is not None:
            encoder = load_encoder(config.ckpt, **config.encoder_options())
            if encoder.architecture != architecture:
                raise ConfigError(
                    f"ckpt={config.ckpt} is a {encoder.architecture.name}, the run asks for {config.model.name} "
                    f"({encoder.architecture} against {architecture}). Add model={encoder.architecture.name}."
                )
        else:
            encoder = SwinV2(architecture, **config.encoder_options())
        return SimMIM(
            encoder, mask_unit=config.mim.mask_unit, mask_ratio=config.mim.mask_ratio, target=config.mim.target
        )


def rebuild(info: Info) -> PretrainModule:
    """The module of a replay bundle, uncompiled, without its weights (see `swinmim.training.replay`)."""
    config = dataclasses.replace(load(PretrainConfig, OmegaConf.create(info.config)), compile=False)
    model = build_model(config)
    return PretrainModule(model, config, info.plan, Provenance(mean=info.mean, std=info.std))
