"""A task model as one network of tensors, for `swinmim.export`."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from finetune.apply.trained import Trained
from finetune.tasks.registry import TASKS
from swinmim.checkpoint.encoder import Stored, load_stored
from swinmim.checkpoint.task_model import read_head
from swinmim.errors import CheckpointError
from swinmim.export.graph import TRACED, ImageNetwork
from swinmim.export.parity import made_images
from swinmim.models.swinv2 import SwinV2
from swinmim.models.windows import Pair


def task_network(stored: Stored, resolution: int | Pair | None) -> ImageNetwork:
    """Encoder and head of any task whose network gives tensors for images: one (`output`), or several by their names.

    Raises CheckpointError: there is no head, it cannot be rebuilt, or it gives something else.
    """
    task = stored.manifest.task or {}
    kind = task.get("kind")
    if isinstance(kind, str) and kind in TASKS and TASKS[kind].needs == "clip":
        raise CheckpointError(
            f"A graph takes images, and the network of task={kind} clips. Use it from Python, or take part=encoder."
        )
    network, encoder = _opened(stored, resolution)
    images = made_images(TRACED, encoder.in_chans, encoder.resolution)
    with torch.no_grad():
        found = network(images)
    outputs = _named(found)
    if outputs is None or any(len(tensor) != TRACED for tensor in outputs.values()):
        raise CheckpointError(
            f"A graph takes images and gives tensors with a row for each; the network of task={kind} gives "
            f"{type(found).__name__}. Use it from Python, or take part=encoder."
        )
    facts: dict[str, Any] = {key: task[key] for key in ("kind", "classes") if key in task}
    size = encoder.in_chans, encoder.resolution
    return ImageNetwork(_Outputs(network).eval(), tuple(outputs), *size, "task model", facts)


def _opened(stored: Stored, resolution: int | Pair | None) -> tuple[nn.Module, SwinV2]:
    """A network, images -> what the head gives, and its encoder. Published classifiers may know no task."""
    if stored.manifest.task is None:
        head = read_head(stored.place)
        if head.keys() == {"weight", "bias"} and head["weight"].ndim == 2:
            encoder = load_stored(stored, resolution=resolution, attention="reference")
            classifier = nn.Linear(encoder.num_features, len(head["bias"]))
            classifier.load_state_dict(head)
            return nn.Sequential(encoder, classifier).eval(), encoder
    network = Trained(stored).network(resolution=resolution, attention="reference")
    return network, network.encoder


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
