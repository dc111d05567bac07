"""One pretraining run: settings -> data, model, trainer -> encoder folder."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from data.loading.module import ShardData, StreamData
from data.loading.stats import Stats, check_stats, resolve_stats
from data.loading.views import CenterCrop, RandomCrop
from data.open import loader_settings, num_listed, open_data, pretrain_data
from data.order.epoch import accumulation
from pretrain.config import PretrainConfig
from pretrain.masking import mask_grid, num_masked
from pretrain.module import BASELINES, PretrainModule
from pretrain.reconstructions import Reconstructions
from pretrain.simmim import SimMIM
from swinmim.checkpoint.encoder import Stored, beside_encoder, load_stored, open_encoder
from swinmim.config import config_errors, load
from swinmim.distributed import is_main
from swinmim.errors import ConfigError
from swinmim.models.architecture import get_architecture
from swinmim.models.swinv2 import SwinV2
from swinmim.paths import shell_quoted
from swinmim.training.callbacks.checkpoint import Monitor
from swinmim.training.execute import execute
from swinmim.training.module import Build, Plan, Provenance
from swinmim.training.replay import Info

log = logging.getLogger(__name__)


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

    @property
    def lanes(self) -> int:
        return self.config.data.lanes

    def listed(self) -> int:
        return num_listed(self.config.data)

    def shape(self) -> SimMIM:
        return build_model(self.config)

    def data(self, shape: SimMIM) -> ShardData | StreamData:
        """Training images, and a held-out part that is the same for every run on the set.

        Raises ConfigError: the set's channels are not the model's; DataError: the set is too small.
        """
        config = self.config
        channels = shape.encoder.in_chans
        check_stats(config.data, channels)
        shards = open_data(config.data, channels)
        if shards.channels != channels:
            whose, cure = f"model.in_chans={channels}", f"Add model.in_chans={shards.channels}."
            if config.ckpt is not None:
                whose = f"ckpt={config.ckpt} takes {channels}"
                cure = f"Write the set with --channels {channels}, or start without ckpt."
            raise ConfigError(f"{config.data.path} has {shards.channels} channels and {whose}. {cure}")
        size = shape.encoder.resolution
        settings = loader_settings(
            config.data,
            size,
            seed=config.seed,
            global_batch=config.global_batch_size,
            batch_size=config.batch_size,
            processes=config.trainer.devices_per_node,
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
            loss = metrics["val/recon_loss"]
            guesses = {words: metrics[f"val/{name}"] for name, words in BASELINES[self.config.mim.target].items()}
            fair = min(guesses.values())
            judged = f"{1 - loss / fair:.1%} below" if loss < fair else "not below"
            told = ", ".join(f"{words} gives {value:.4f}" for words, value in guesses.items())
            lines.append(f"held-out masked L1 {loss:.4f}, {judged} the better guess without a network: {told}")
        if (pictures := output_dir / "reconstructions").is_dir():  # streams hold nothing out to draw
            lines.append(f"pictures  {pictures}")
        lines.append(f"encoder   {output_dir / 'encoder'}")
        lines.append(
            f"next      python -m finetune ckpt={shell_quoted(output_dir)} data.path=LABELLED_FOLDER resolution=..."
        )
        return "\n".join(lines)


def build_model(config: PretrainConfig) -> SimMIM:
    """SimMIM around the encoder of `ckpt`, which decides the architecture, or around a new one as `model` says.

    Raises ConfigError: a resolution, window, mask unit or width that does not fit; CheckpointError: `ckpt` cannot be
    loaded.
    """
    with config_errors():
        if config.ckpt is None:
            architecture = get_architecture(config.model.name, **config.model.overrides())
            encoder = SwinV2(architecture, **config.encoder_options())
        else:
            stored = open_encoder(config.ckpt)
            encoder = load_stored(stored, **config.encoder_options())
        model = SimMIM(
            encoder, mask_unit=config.mim.mask_unit, mask_ratio=config.mim.mask_ratio, target=config.mim.target
        )
    if config.ckpt is not None and not model.mask_token.is_meta:
        _continue_from(stored, config.model.name, model)
    return model


def _continue_from(ckpt: Stored, named: str, model: SimMIM) -> None:
    """Take the mask token and decoder that stand beside the encoder of `ckpt`, and say what it decided."""
    own = model.state_dict()
    beside = {name: tensor for name, tensor in beside_encoder(ckpt.read()).items() if name in own}
    fits = bool(beside) and all(own[name].shape == tensor.shape for name, tensor in beside.items())
    if fits:
        model.load_state_dict(beside, strict=False)
    if is_main():
        name = model.encoder.architecture.name
        other = "" if name == named else f"; model={named} has no effect beside ckpt"
        log.info("ckpt is a %s%s; mask token and decoder are %s", name, other, "those of ckpt" if fits else "new")


def rebuild(info: Info) -> PretrainModule:
    """The module of a replay bundle, uncompiled, without its weights (see `swinmim.training.replay`)."""
    config = dataclasses.replace(load(PretrainConfig, OmegaConf.create(info.config)), compile=False)
    model = build_model(config)
    return PretrainModule(model, config, info.plan, Provenance(mean=info.mean, std=info.std))
