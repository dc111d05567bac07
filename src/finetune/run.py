"""One fine-tuning run: encoder folder and labelled images -> task model."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from omegaconf import OmegaConf

from data.codecs.decode import DecodeError
from data.codecs.targets import decode_target
from data.loading.module import Part, ShardData
from data.loading.stats import Stats, check_stats
from data.open import labelled_parts, loader_settings, num_labelled
from data.order.epoch import accumulation
from data.shards.local import ShardSet
from finetune.config import FinetuneConfig
from finetune.hard_examples import HardExamples
from finetune.measure import measure
from finetune.model import TaskModel, build_encoder, normalisation
from finetune.module import TaskModule
from finetune.pictures import Predictions
from finetune.task import Subject
from finetune.tasks.registry import FROZEN, TASKS
from swinmim.checkpoint.encoder import CONFIG_NAME, load_manifest
from swinmim.config import load
from swinmim.models.swinv2 import SwinV2
from swinmim.paths import shell_quoted
from swinmim.training.callbacks.checkpoint import Monitor
from swinmim.training.execute import execute
from swinmim.training.module import Build, Plan, Provenance
from swinmim.training.replay import Info


def run(config: FinetuneConfig, output_dir: Path) -> dict[str, float]:
    """Fine-tune, and leave the task model at `output_dir/encoder`; returns and raises as `execute`.

    A frozen task measures the encoder instead, and leaves tables; see `measure`.
    """
    if config.task.kind in FROZEN:
        return measure(config, output_dir)
    return execute(FinetuneParts(config), config, output_dir)


class FinetuneParts:
    """The parts of a fine-tuning run, see `swinmim.training.execute`."""

    command = "finetune"

    def __init__(self, config: FinetuneConfig) -> None:
        self.config = config
        self.monitor: Monitor = TASKS[config.task.kind].monitor

    def accumulation(self) -> int:
        return accumulation(self.config.global_batch_size, self.config.trainer.world_size, self.config.batch_size)

    @property
    def lanes(self) -> int:
        return self.config.data.lanes

    def listed(self) -> int:
        return num_labelled(self.config.data, TASKS[self.config.task.kind].needs)

    def shape(self) -> SwinV2:
        return build_encoder(self.config)

    def data(self, shape: SwinV2) -> ShardData:
        config, kind = self.config, TASKS[self.config.task.kind]
        check_stats(config.data, shape.in_chans)
        train, val = labelled_parts(config.data, seed=config.seed, channels=shape.in_chans, needs=kind.needs)
        subject = Subject(
            classes=train.shards.classes,
            channels=train.shards.channels,
            bits=train.shards.bits,
            facts=kind.survey(config.task, _targets(train, config.data.max_pixels)),
        )
        self.task = kind(config.task, subject)
        settings = loader_settings(
            config.data,
            shape.resolution,
            seed=config.seed,
            global_batch=config.global_batch_size,
            batch_size=config.batch_size,
            processes=config.trainer.devices_per_node,
            needs=kind.needs,
        )
        return ShardData(train, val, *self.task.views(shape.resolution), settings)

    def statistics(self, data: ShardData) -> Stats:
        return normalisation(self.config, data.train)

    def network(self, data: ShardData) -> TaskModel:
        return TaskModel(build_encoder(self.config), self.task)

    def module(self, network: TaskModel, plan: Plan, provenance: Provenance, build: Build | None) -> TaskModule:
        return TaskModule(network, self.task, self.config, plan, provenance, build)

    def recipe(self) -> dict[str, Any]:
        return {
            "method": "supervised fine-tuning",
            "task": dataclasses.asdict(self.config.task),
            "labels_per_class": self.config.data.labels_per_class,
        }

    def derived(self, network: TaskModel, data: ShardData) -> dict[str, object]:
        encoder = network.encoder
        return {
            "classes": len(self.task.subject.classes),
            "validation_images": data.num_val,
            "resolution": f"{encoder.resolution[0]}x{encoder.resolution[1]}",
            "pretrained_windows": ", ".join(f"{h}x{w}" for h, w in encoder.pretrained_windows),
        }

    def callbacks(self, output_dir: Path) -> Sequence[Callback]:
        return [Predictions(output_dir, self.config.callbacks.predictions), HardExamples(output_dir, self.task)]

    def verdict(self, metrics: Mapping[str, float], output_dir: Path) -> str:
        """How good the last and the best epoch are and where they lie, what comes next."""
        model, best = output_dir / "encoder", output_dir / "checkpoints" / "best" / "encoder"
        same = best.resolve() == model.resolve()
        folders = {"last and best": model} if same else {"last": model, "best": best}
        lines = [self._told(which, folder) for which, folder in folders.items() if folder.is_dir()]
        if (pictures := output_dir / "predictions").is_dir():  # of tasks that draw
            lines.append(f"pictures  {pictures}")
        reader = f"timm.create_model({f'local-dir:{model}'!r}, pretrained=True)"
        if not (model / CONFIG_NAME).is_file():  # timm has no such network
            reader = f"swinmim.load_encoder({str(model)!r})"
        ckpt = f"ckpt={shell_quoted(output_dir)}"
        return "\n".join(
            [
                *lines,
                f"next      python -m finetune.evaluate {ckpt}",
                f"          python -m finetune.predict {ckpt} data.path=IMAGES",
                f"          {reader}",
            ]
        )

    def _told(self, which: str, folder: Path) -> str:
        measured = load_manifest(folder).metrics
        facts = [f"{which.ljust(8)}  epoch {measured['epochs']:.3g}", self.task.verdict(measured), str(folder)]
        return ", ".join(filter(None, facts))


def _targets(part: Part, max_pixels: int) -> Iterator[Any]:
    """The targets of a set, or its classes, one by one; damaged ones are left out here as they are in training."""
    shards = part.shards
    if shards.target is None:
        if isinstance(shards, ShardSet) and shards.classes:
            yield from shards.labels[part.sorted_indices()].tolist()
        return
    for index in part.sorted_indices().tolist():
        try:
            yield decode_target(shards.target, shards.read_target(index), len(shards.classes), max_pixels)
        except DecodeError:
            continue


def rebuild(info: Info) -> TaskModule:
    """The module of a replay bundle, uncompiled, without its weights (see `swinmim.training.replay`)."""
    config = load(FinetuneConfig, OmegaConf.create(info.config))
    subject = Subject(classes=info.classes, facts=info.facts)
    task = TASKS[config.task.kind](config.task, subject)
    network = TaskModel(build_encoder(config), task)
    return TaskModule(network, task, config, info.plan, Provenance(mean=info.mean, std=info.std))
