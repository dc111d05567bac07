"""The one order of events of a run. `pretrain/run.py` and `finetune/run.py` hand over their `Parts` and nothing else.

World, shape, memory and batch sizes are checked before anything is read, data and statistics before a network is built,
the schedule before a trainer is; the seed is set once, before the data.
"""

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from swinmim.checkpoint.encoder import load_manifest
from swinmim.distributed import is_main
from swinmim.errors import ConfigError, DataError, TooFewImages, UserError
from swinmim.models.swinv2 import SwinV2
from swinmim.optim.schedules import peak_lr, warmup_steps
from swinmim.training.callbacks.checkpoint import Checkpoints, Monitor
from swinmim.training.fit import make_plan, smaller_batch, train
from swinmim.training.module import Build, Plan, Provenance, TrainingModule
from swinmim.training.settings import RunConfig
from swinmim.training.trainer import check_memory, check_world, resolve_precision

log = logging.getLogger(__name__)

_WIDE = 24


class Data(Protocol):
    """What is read off a data module."""

    num_train: int

    @property
    def train(self) -> Any:
        """The set, with a length and a `fingerprint`."""


D = TypeVar("D", bound=Data)
X = TypeVar("X")
S = TypeVar("S", bound=nn.Module)
S_contra = TypeVar("S_contra", bound=nn.Module, contravariant=True)
N = TypeVar("N", bound=nn.Module)


class First(Protocol[S_contra, X]):
    """What every kind of run has in common with the others, training or not."""

    @property
    def lanes(self) -> int:
        """`data.lanes`."""

    def data(self, shape: S_contra) -> X:
        """The data module. Raises UserError for data that cannot be used, or do not fit the shape."""

    def statistics(self, data: X) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation per channel, in 0..1 units."""


def start(parts: First[S, X], config: RunConfig, shape: S) -> tuple[X, tuple[float, ...], tuple[float, ...]]:
    """Set the seed, then open the data: them, and mean and deviation.

    Raises UserError: data that cannot be used, do not fit the shape, or are fewer than a global batch.
    """
    L.seed_everything(config.seed, verbose=False)
    try:
        data = parts.data(shape)
    except TooFewImages as error:
        way = smaller_batch(config, error.images, parts.lanes, error.fits)
        raise DataError(f"{error} {way}".rstrip()) from None
    return data, *parts.statistics(data)


class Parts(Protocol[S, D, N]):
    """What one kind of run consists of. `execute` calls the methods in this order.

    A network has its SwinV2 at `encoder`, and all else that it learns beside it.
    """

    @property
    def command(self) -> str:
        """pretrain or finetune: the word before the progress bar, and in a bundle for replay."""

    def accumulation(self) -> int:
        """Micro-batches per optimizer step. Raises ConfigError for batch sizes that do not fit."""

    @property
    def lanes(self) -> int:
        """`data.lanes`."""

    def listed(self) -> int:
        """How many images the training set has, as far as is known before any is packed. Raises UserError for data
        that cannot be found."""

    def shape(self) -> S:
        """What is known of the network before the data; called under the meta device, reads no weights."""

    def data(self, shape: S) -> D:
        """The data module. Raises UserError for data that cannot be used, or do not fit the shape."""

    def statistics(self, data: D) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation per channel, in 0..1 units."""

    def network(self, data: D) -> N:
        """The network; called under the meta device as well, where it reads no weights."""

    def module(self, network: N, plan: Plan, provenance: Provenance, build: Build | None) -> TrainingModule:
        """The Lightning module; arguments as `TrainingModule`'s."""

    def recipe(self) -> Mapping[str, Any]:
        """`method`, and what else the manifest tells of this kind of training beside optimizer, schedule and batch."""

    def derived(self, network: N, data: D) -> Mapping[str, object]:
        """What follows from this kind of settings, beside what every run tells."""

    def callbacks(self, output_dir: Path) -> Sequence[Callback]:
        """Those of this kind of run alone."""

    @property
    def monitor(self) -> Monitor:
        """The validation metric whose best checkpoint is kept."""

    def verdict(self, metrics: Mapping[str, float], output_dir: Path) -> str:
        """How good, where is the result, what comes next."""


def execute(parts: Parts[S, D, N], config: RunConfig, output_dir: Path) -> dict[str, float]:
    """One run: its encoder folder is at `output_dir/encoder`, its best checkpoint at `output_dir/checkpoints/best`.

    parts: of this kind of run, made from the same settings. Returns the last value of every metric.

    Raises UserError: whatever in settings, data or checkpoints keeps the run from starting, or ended it.
    """
    check_world(config.trainer, config.strategy)
    accumulation = _accumulation(parts, config)
    with torch.device("meta"):
        shape = parts.shape()
    check_memory(num_parameters(shape), config.trainer, config.strategy)
    data, mean, std = start(parts, config, shape)
    build = functools.partial(parts.network, data) if config.strategy.partitions_parameters else None
    with torch.device("meta") if build else contextlib.nullcontext():
        network = parts.network(data)
    encoder = cast(SwinV2, network.encoder)
    warn_of_windows([stage.window for stage in encoder.stages])
    if config.compile:
        encoder.compile_blocks()
    plan = make_plan(config, accumulation=accumulation, num_samples=data.num_train)
    provenance = Provenance(
        mean=mean,
        std=std,
        recipe={
            **parts.recipe(),
            "optim": dataclasses.asdict(config.optim),
            "schedule": dataclasses.asdict(config.schedule),
            "max_epochs": config.trainer.max_epochs,
            "global_batch_size": config.global_batch_size,
            "seed": config.seed,
        },
        data={"fingerprint": data.train.fingerprint, "samples": len(data.train)},
        parent=config.ckpt,
        parents=() if config.ckpt is None else _chain(config.ckpt),
    )
    metrics = train(
        config,
        parts.module(network, plan, provenance, build),
        cast(L.LightningDataModule, data),
        command=parts.command,
        callbacks=[
            *parts.callbacks(output_dir),
            Checkpoints(output_dir, config.callbacks.checkpoint, parts.monitor, dataclasses.asdict(config)),
        ],
        derived={
            "parameters": num_parameters(network),
            "images": data.num_train,
            **parts.derived(network, data),
            "windows": ", ".join(f"{h}x{w}" for h, w in (stage.window for stage in encoder.stages)),
            "peak_lr": peak_lr(config.optim.base_lr, config.global_batch_size),
            "warmup_steps": warmup_steps(config.schedule, plan.total_steps, plan.steps_per_epoch),
            "steps_per_epoch": plan.steps_per_epoch,
            "total_steps": plan.total_steps,
            "accumulation": plan.accumulation,
            "precision": resolve_precision(config.trainer),
        },
        output_dir=output_dir,
    )
    if is_main():
        log.info("%s", parts.verdict(metrics, output_dir))
    return metrics


def _chain(ckpt: str) -> tuple[Mapping[str, Any], ...]:
    return tuple(ancestor.model_dump() for ancestor in load_manifest(ckpt).chain(ckpt))


def _accumulation(parts: Parts[S, D, N], config: RunConfig) -> int:
    """`parts.accumulation`, whose advice is not one that the next check refuses: what it calls legal fits the set."""
    try:
        return parts.accumulation()
    except ConfigError as error:
        unit, images = config.trainer.world_size * config.batch_size, 0
        with contextlib.suppress(UserError):  # which the next start is told
            images = parts.listed()
        if not images or -(-config.global_batch_size // unit) * unit <= images:
            raise
        raise ConfigError(
            f"global_batch_size must be a multiple of processes x batch_size and not larger than the training set, got"
            f" {config.global_batch_size} with {config.trainer.world_size} x {config.batch_size} = {unit} for"
            f" {images:,} images. {smaller_batch(config, images, parts.lanes)}"
        ) from error


def warn_of_windows(windows: Sequence[tuple[int, int]]) -> None:
    """Say what a window of more than 24 tokens a side, the widest that pays in the paper's runs at 384 px, costs."""
    height, width = max(windows, key=lambda window: window[0] * window[1])
    tokens = height * width
    if max(height, width) > _WIDE and is_main():
        log.warning(
            "The attention window is %dx%d tokens: each of them attends to %d, %.1f times the time and memory of a "
            "%dx%d window (%.0f MiB a head and window in float32). window=... takes a smaller one, attention=chunked "
            "keeps no such table.",
            height, width, tokens, tokens / _WIDE**2, _WIDE, _WIDE, 4 * tokens**2 / 2**20,
        )  # fmt: skip


def num_parameters(module: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in module.parameters())
