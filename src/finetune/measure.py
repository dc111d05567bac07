"""A run that measures a frozen encoder: the first events are those of every run, then features, heads and a table.

Beside each number stands that of an untrained network of the same architecture (seed 0). One process, no checkpoints.
"""

import csv
import dataclasses
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from data.loading.batch import Batch, LoaderSettings
from data.loading.dataset import BatchDataset
from data.loading.loader import BatchLoader
from data.loading.module import Part
from data.loading.normalise import normalise
from data.loading.sampler import EvalSampler
from data.loading.stats import Stats, check_stats
from data.open import labelled_parts, loader_settings
from finetune.config import FinetuneConfig
from finetune.frozen import Effort, FrozenTask, Measured
from finetune.model import build_encoder, normalisation
from finetune.tasks.registry import FROZEN
from swinmim.errors import CheckpointError, ConfigError, DataError
from swinmim.evaluation.features import Features, collect, features_bytes
from swinmim.memory import GIB, host_memory
from swinmim.models.swinv2 import SwinV2
from swinmim.tables import table
from swinmim.training.execute import start
from swinmim.training.trainer import build_loggers, check_world, only_device, resolve_precision
from swinmim.training.wandb import finish_wandb

log = logging.getLogger(__name__)

ENCODER, UNTRAINED = "encoder", "untrained"


def measure(config: FinetuneConfig, output_dir: Path) -> dict[str, float]:
    """Measure the encoder, print the table, and write `TASK.csv` and `metrics.json`; returns the metrics.

    Raises UserError: whatever in settings, data or checkpoints keeps the run from starting, or ended it.
    """
    check_world(config.trainer, config.strategy)
    with torch.device("meta"):
        shape = build_encoder(config)
    if config.resume == "auto":
        log.info("resume=auto: task=%s keeps no state, so it measures anew", config.task.kind)
    sets, mean, std = start(_Sets(config), config, shape)
    task = FROZEN[config.task.kind](config.task, shape, len(sets.train.shards.classes))
    _check_memory(shape, task, sets)
    reading = _Reading(config, task, sets, (mean, std))
    loggers = build_loggers(config.logger, output_dir, dataclasses.asdict(config))
    try:
        found = {} if config.ckpt is None else {ENCODER: reading.measured(build_encoder(config), ENCODER)}
        found[UNTRAINED] = reading.measured(_untrained(shape, config), UNTRAINED)
        rows, metrics = _rows(found), _metrics(found)
        log.info(
            "%s", "\n".join([table([list(rows[0]), *map(_shown, rows)]), *task.remarks(next(iter(found.values())))])
        )
        _write_table(output_dir / f"{task.kind}.csv", rows)
        (output_dir / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
        for logger in loggers:
            logger.log_metrics({**metrics, "samples_seen": 0.0}, step=0)
            logger.finalize("success")
    finally:
        finish_wandb()
    log.info("result    %s", output_dir / f"{task.kind}.csv")
    return metrics


class _Labelled(NamedTuple):
    """What is learnt from and what is reported on, and how both are read."""

    train: Part
    val: Part
    settings: LoaderSettings


class _Sets:
    """The first parts of such a run, see `swinmim.training.execute.First`."""

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config

    @property
    def lanes(self) -> int:
        return self.config.data.lanes

    def data(self, shape: SwinV2) -> _Labelled:
        config, needs = self.config, FROZEN[self.config.task.kind].needs
        check_stats(config.data, shape.in_chans)
        train, val = labelled_parts(config.data, seed=config.seed, channels=shape.in_chans, needs=needs)
        settings = loader_settings(
            config.data,
            shape.resolution,
            seed=config.seed,
            global_batch=config.batch_size,
            batch_size=config.batch_size,
            needs=needs,
        )
        return _Labelled(train, val, settings)

    def statistics(self, data: _Labelled) -> Stats:
        return normalisation(self.config, data.train.shards)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """How an encoder is looked at."""

    config: FinetuneConfig
    task: FrozenTask[Any]
    sets: _Labelled
    stats: Stats

    def measured(self, encoder: SwinV2, name: str) -> list[Measured]:
        """The lines of the table for one encoder."""
        config = self.config
        device = only_device(config.trainer.accelerator)
        encoder = encoder.to(device).eval()
        train, val = (self._features(encoder, part, name) for part in (self.sets.train, self.sets.val))
        if not len(val.labels):
            raise DataError(f"{self.sets.val.shards.path}: no image to report on could be decoded.")
        return self.task.measure(
            train, val, Effort(config.trainer.max_epochs, config.global_batch_size, config.seed, device)
        )

    def _features(self, encoder: SwinV2, part: Part, name: str) -> Features:
        """Of every image of a part that can be decoded."""
        shards, indices, settings = part.shards, part.sorted_indices(), self.sets.settings
        dataset = BatchDataset(shards, indices, self.task.view(encoder.resolution), settings, "eval")
        sampler = EvalSampler(indices, settings.batch_size)
        loader = BatchLoader(dataset, sampler, settings.num_workers, settings.max_bad_fraction, shards.fork_safe)
        batches = self._prepared(tqdm(loader, f"features, {name}", disable=None), next(encoder.parameters()).device)
        autocast = torch.autocast(
            next(encoder.parameters()).device.type,
            torch.bfloat16,
            enabled=resolve_precision(self.config.trainer) == "bf16-mixed",
        )
        try:
            with autocast:
                return collect(encoder, batches, self.task.stages, len(indices), keep_maps=self.task.keeps_maps)
        except ValueError as error:
            raise CheckpointError(
                f"{self.config.ckpt or self.config.model}: {error}. Take another checkpoint."
            ) from None

    def _prepared(self, loader: Iterable[Batch], device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        mean, std = (torch.tensor(values, device=device) for values in self.stats)
        for batch in loader:
            images = batch["image"]
            assert isinstance(images, Tensor)
            valid = batch["valid"]
            yield normalise(images[valid].to(device), mean, std), batch["label"][valid]


def _untrained(shape: SwinV2, config: FinetuneConfig) -> SwinV2:
    """A network like the one in question, with first weights of seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SwinV2(
            shape.architecture,
            resolution=shape.resolution,
            window=shape.stages[0].window,
            pad=True,
            attention=config.attention,
            chunk=config.chunk,
        )


def _check_memory(shape: SwinV2, task: FrozenTask[Any], sets: _Labelled) -> None:
    count = sum(len(part.sorted_indices()) for part in (sets.train, sets.val))
    needs, has = features_bytes(shape, task.stages, count, keep_maps=task.keeps_maps), host_memory()
    if needs > 0.8 * has:
        raise ConfigError(
            f"the features of {count:,} images need {needs / GIB:.1f} GiB of memory, this machine has {has / GIB:.1f}. "
            "Look at fewer images (data.labels_per_class=...), fewer stages (task.stages=[4])"
            + (" or means alone (task.heads=[linear])." if task.keeps_maps else ".")
        )


def _rows(found: Mapping[str, Sequence[Measured]]) -> list[dict[str, Any]]:
    """The table: a line for each stage and head, of what was chosen for the first network, and how good each is."""
    first = next(iter(found))
    rows: list[dict[str, Any]] = []
    for lines in zip(*found.values(), strict=True):
        tops = {("top1" if name == first else f"{name}_top1"): one.top1 for name, one in zip(found, lines, strict=True)}
        rows.append({"stage": lines[0].stage, "head": lines[0].head, **tops, **lines[0].chosen})
    if first == UNTRAINED:
        rows = [{"untrained_top1" if key == "top1" else key: value for key, value in row.items()} for row in rows]
    return rows


def _shown(row: Mapping[str, Any]) -> list[str]:
    return [
        f"{100 * value:.2f} %" if key.endswith("top1") else f"{value:g}" if isinstance(value, float) else str(value)
        for key, value in row.items()
    ]


def _metrics(found: Mapping[str, Sequence[Measured]]) -> dict[str, float]:
    """probe/linear_s3, and probe/linear_s3_untrained."""
    return {
        f"probe/{one.head}_s{one.stage}" + ("_untrained" if name == UNTRAINED else ""): one.top1
        for name, lines in found.items()
        for one in lines
    }


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
