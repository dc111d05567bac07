"""A trained task model, opened from its folder: encoder, head, and the task that says what the outputs mean."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, Unpack

import yaml
from pydantic import TypeAdapter, ValidationError

from finetune.model import TaskModel
from finetune.task import Subject, Task
from finetune.tasks.registry import TASKS
from swinmim.checkpoint import io
from swinmim.checkpoint.encoder import EncoderOptions, Stored, encoder_of, load_stored, open_encoder
from swinmim.checkpoint.manifest import Manifest
from swinmim.checkpoint.task_model import load_head, read_head
from swinmim.config import CONF_DIR, config_errors
from swinmim.errors import CheckpointError
from swinmim.models.errors import nearest
from swinmim.models.swinv2 import SwinV2
from swinmim.outside import faults

T = TypeVar("T")


class Trained:
    """A task model on disk. Its weights are read when `network` is called.

    stored: as `open_encoder` found it. Raises CheckpointError: it is an encoder without a head, or of a task that this
    version does not know.
    """

    def __init__(self, stored: Stored) -> None:
        self.stored = stored
        if stored.manifest.task is None:
            raise CheckpointError(_without_task(stored))
        self.task = _restored(stored.manifest, stored.manifest.task, stored.place)

    @property
    def manifest(self) -> Manifest:
        return self.stored.manifest

    def run_settings(self) -> Mapping[str, Any]:
        """Those of the run that wrote the folder, which lie beside it; empty where it was copied to another place."""
        step = self.stored.place.resolve().parent
        return io.read_config(step) if (step / io.CONFIG).is_file() else {}

    def shape(self, **options: Unpack[EncoderOptions]) -> SwinV2:
        """The encoder without its weights. Raises ConfigError: a resolution that does not fit."""
        with config_errors():
            return encoder_of(self.manifest, **options)

    def network(self, **options: Unpack[EncoderOptions]) -> TaskModel:
        """Encoder and head, on the CPU, for evaluation. Raises as `load_encoder` and `load_head`."""
        with config_errors():
            encoder = load_stored(self.stored, **options)
        network = TaskModel(encoder, self.task)
        load_head(self.stored.place, network.head)
        return network.eval().requires_grad_(False)


def open_trained(path: str | Path) -> Trained:
    """The task model of a run, of one of its checkpoints, or of a folder that `scripts/export.py` wrote.

    Raises CheckpointError: nothing of the kind is there.
    """
    return Trained(open_encoder(path))


def _without_task(stored: Stored) -> str:
    what = "an encoder without a head"
    if read_head(stored.place):
        what = "an encoder with a head, and does not say what that answers"
    return (
        f"{stored.place} is {what}: it gives features (python -m finetune.embed ckpt=...; export takes part=encoder) "
        "and no answers. Fine-tune it first: python -m finetune ckpt=..."
    )


def _restored(manifest: Manifest, record: Mapping[str, Any], place: Path) -> Task[Any]:
    kind, classes = record.get("kind"), record.get("classes")
    if not isinstance(kind, str) or kind not in TASKS:
        raise CheckpointError(
            f"{place} is of the task {kind!r}, which this swinmim does not know.{nearest(str(kind), TASKS)} It knows "
            f"{', '.join(TASKS)}."
        )
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise CheckpointError(f"{place}: its manifest does not list the classes of its task. Export it anew.")
    task = TASKS[kind]
    # What a folder of an earlier version does not say is what conf/ says.
    settings = yaml.safe_load((CONF_DIR / "task" / f"{kind}.yaml").read_text())
    known = {field.name for field in dataclasses.fields(task.Settings)}
    evaluation = {"crop_ratio": manifest.evaluation.crop_pct, "crop_mode": manifest.evaluation.crop_mode}
    for source in (evaluation, manifest.recipe.get("task"), record.get("settings")):
        if isinstance(source, dict):
            settings |= {name: value for name, value in source.items() if name in known}
    settings["kind"] = kind
    facts, bits = record.get("facts", {}), record.get("bits", 8)
    if not isinstance(facts, dict) or bits not in (8, 16):
        raise CheckpointError(
            f"{place}: facts and bits of its task are damaged in the manifest. Copy the folder again."
        )
    typed = typed_settings(task.Settings, settings, f"{place}: the settings of its task")
    return task(typed, Subject(tuple(classes), manifest.in_chans, bits, facts))


def typed_settings(kind: type[T], values: Mapping[str, Any], what: str) -> T:
    """Settings that a folder holds, which are data of others: nothing in them is resolved.

    Raises CheckpointError: they are not of this kind; it says `what` they are.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise CheckpointError(f"{what} cannot be used: {'; '.join(faults(error)[:5])}.") from error
