"""A task model as one network of tensors, for `swinmim.export`."""

from collections.abc import Mapping
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from finetune.model import TaskModel
from finetune.task import Subject
from finetune.tasks.registry import TASKS
from swinmim.checkpoint.coverage import coverage
from swinmim.checkpoint.encoder import Stored, load_stored
from swinmim.checkpoint.task_model import read_head
from swinmim.config import load
from swinmim.errors import CheckpointError
from swinmim.export.graph import TRACED, ImageNetwork
from swinmim.export.parity import made_images
from swinmim.models.swinv2 import SwinV2
from swinmim.models.windows import Pair


def task_network(stored: Stored, resolution: int | Pair | None) -> ImageNetwork:
    """Encoder and head of any task whose network gives tensors for images: one (`output`), or several by their names.

    Raises CheckpointError: there is no head, it cannot be rebuilt, or it gives something else.
    """
    named = str((stored.manifest.task or {}).get("kind"))
    if named in TASKS and TASKS[named].needs == "clip":
        raise CheckpointError(
            f"A graph takes images, and the network of task={named} clips. Use it from Python, or take part=encoder."
        )
    encoder = load_stored(stored, resolution=resolution, attention="reference")
    network = open_network(stored, encoder).eval()
    images = made_images(TRACED, encoder.in_chans, encoder.resolution)
    with torch.no_grad():
        found = network(images)
    outputs = _named(found)
    if outputs is None or any(len(tensor) != TRACED for tensor in outputs.values()):
        kind = (stored.manifest.task or {}).get("kind")
        raise CheckpointError(
            f"A graph takes images and gives tensors with a row for each; the network of task={kind} gives "
            f"{type(found).__name__}. Use it from Python, or take part=encoder."
        )
    task = stored.manifest.task or {}
    facts: dict[str, Any] = {key: task[key] for key in ("kind", "classes") if key in task}
    size = encoder.in_chans, encoder.resolution
    return ImageNetwork(_Outputs(network).eval(), tuple(outputs), *size, "task model", facts)


def open_network(stored: Stored, encoder: SwinV2) -> nn.Module:
    """The trained network of a task model around its encoder, images -> what the head gives."""
    place, manifest, head = stored.place, stored.manifest, read_head(stored.place)
    if not head:
        raise CheckpointError(
            f"{place} holds an encoder without a head. Fine-tune it first: python -m finetune; or part=encoder."
        )
    task, settings = manifest.task or {}, manifest.recipe.get("task")
    if (
        settings is None and head.keys() == {"weight", "bias"} and head["weight"].ndim == 2
    ):  # published weights: a classifier of no task of ours
        classifier = nn.Linear(encoder.num_features, len(head["bias"]))
        classifier.load_state_dict(head)
        return nn.Sequential(encoder, classifier)
    if task.get("kind") not in TASKS or not isinstance(settings, Mapping):
        raise CheckpointError(
            f"The head in {place} cannot be rebuilt: its manifest names task {task.get('kind')!r} and "
            f"{'no settings of it' if settings is None else 'other settings'}; this program knows {', '.join(TASKS)}."
        )
    kind = TASKS[task["kind"]]
    subject = Subject(classes=tuple(task.get("classes", ())), channels=manifest.in_chans, facts=task.get("facts", {}))
    network = TaskModel(encoder, kind(load(kind.Settings, OmegaConf.create(dict(settings))), subject))
    report = coverage(network.head.state_dict(), head)
    if not report.complete:
        raise CheckpointError(f"The head in {place} is another one than its task describes:\n  {report}")
    network.head.load_state_dict(head)
    return network


class _Outputs(nn.Module):
    """A network that gives a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = _named(self.network(images))
        assert outputs is not None
        return tuple(outputs.values())


def _named(output: Any) -> dict[str, Tensor] | None:
    """A head's tensors by their names; None where it gives anything else."""
    match output:
        case Tensor():
            return {"output": output}
        case Mapping():
            named = {str(key): value for key, value in output.items()}
        case list() | tuple():
            named = {f"output{number}": value for number, value in enumerate(output)}
        case _:
            return None
    return named if named and all(isinstance(value, Tensor) for value in named.values()) else None
