"""A network as a graph of tensors that needs none of this code: ONNX, and torch.export's .pt2; the batch is free."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swinmim.checkpoint.encoder import Stored
from swinmim.errors import CheckpointError, ConfigError
from swinmim.export.card import ONNX, TORCH_EXPORT, Content, write_card
from swinmim.export.parity import Parity, judge, made_images, measure
from swinmim.models.swinv2 import SwinV2

ONNX_FILE, PROGRAM_FILE = "model.onnx", "model.pt2"
ONNX_LIMIT, PROGRAM_LIMIT = 1e-4, 1e-5
TRACED, TRIED = 2, (1, 3)
"""Batch sizes: a batch of 1 would be built into the graph."""
LARGEST_FILE = 1_500_000_000
"""Bytes of weights inside the .onnx file, which holds at most 2 GiB; above they stand beside it."""


@dataclass(frozen=True)
class ImageNetwork:
    """Normalised images (B, C, H, W) -> named tensors whose first axis is the batch.

    module: in eval mode, float32, on the CPU, its encoder with the literal core of attention (the others choose by the
    batch). It gives a tuple.
    """

    module: nn.Module
    outputs: tuple[str, ...]
    channels: int
    resolution: tuple[int, int]
    what: Content = "encoder"
    facts: dict[str, Any] = field(default_factory=dict)
    """For the metadata of the file, e.g. class names."""


class EncoderMaps(nn.Module):
    """The pooled vector and the map of each stage."""

    def __init__(self, encoder: SwinV2) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.encoder.encode(self.encoder.embed(images))
        pooled_BC = self.encoder.norm(maps[-1]).mean(dim=(1, 2))
        return (pooled_BC, *(tokens_BHWC.permute(0, 3, 1, 2) for tokens_BHWC in maps))


def encoder_network(encoder: SwinV2) -> ImageNetwork:
    """Outputs `pooled` (B, C_S) and `stage1`, ... (B, C_s, H_s, W_s), those of `SwinV2.pool` and `features`."""
    names = ("pooled", *(f"stage{number}" for number in range(1, len(encoder.stages) + 1)))
    return ImageNetwork(EncoderMaps(encoder).eval(), names, encoder.in_chans, encoder.resolution)


def write_onnx(stored: Stored, network: ImageNetwork, folder: Path) -> list[Parity]:
    """model.onnx in an empty folder, run by onnxruntime on two sizes of batch.

    Raises ConfigError: the extra is not installed; CheckpointError: the network has no graph, or onnxruntime computes
    something else.
    """
    for library in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(library) is None:
            raise ConfigError(f"format=onnx needs {library}, which is not installed: pip install 'swinmim[onnx]'")
    import onnxruntime

    program = _traced(network)
    with torch.no_grad():
        exported = torch.onnx.export(
            program,
            (),
            dynamo=True,
            input_names=["images"],
            output_names=list(network.outputs),
            verbose=False,
        )
    assert exported is not None
    for key, value in _facts(stored, network).items():
        exported.model.metadata_props[key] = value
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.module.state_dict().values())
    exported.save(folder / ONNX_FILE, external_data=size > LARGEST_FILE)
    write_card(folder, stored, ONNX, network.what, _notes(network))
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])

    def run(images_BCHW: Tensor) -> list[Tensor]:
        return [torch.from_numpy(output) for output in session.run(None, {"images": images_BCHW.numpy()})]

    return _tried("onnxruntime", network, run, ONNX_LIMIT)


def write_program(stored: Stored, network: ImageNetwork, folder: Path) -> list[Parity]:
    """model.pt2 in an empty folder, loaded again and run on two sizes of batch; raises as `write_onnx`."""
    facts = _facts(stored, network)
    torch.export.save(_traced(network), folder / PROGRAM_FILE, extra_files={"facts.json": json.dumps(facts)})
    write_card(folder, stored, TORCH_EXPORT, network.what, _notes(network))
    return _tried("torch.export", network, torch.export.load(folder / PROGRAM_FILE).module(), PROGRAM_LIMIT)


def _traced(network: ImageNetwork) -> torch.export.ExportedProgram:
    images = made_images(TRACED, network.channels, network.resolution)
    batch = torch.export.Dim("batch", min=1)
    try:
        with torch.no_grad():
            return torch.export.export(network.module, (images,), dynamic_shapes=({0: batch},))
    except (RuntimeError, ValueError) as error:  # of many kinds, private ones among them
        raise CheckpointError(
            f"This network has no graph with a free batch: {str(error).strip().splitlines()[0]}. Load it in Python "
            "instead, or take part=encoder."
        ) from error


def _tried(what: str, network: ImageNetwork, theirs: Any, limit: float) -> list[Parity]:
    found = []
    for batch in TRIED:
        images = made_images(batch, network.channels, network.resolution)
        found.append(judge(f"{what}, batch of {batch}", measure(network.module, theirs, images), limit))
    return found


def _facts(stored: Stored, network: ImageNetwork) -> dict[str, str]:
    manifest = stored.manifest
    values = {"mean": manifest.mean, "std": manifest.std, "resolution": network.resolution, **network.facts}
    return {key: json.dumps(value) for key, value in values.items()}


def _notes(network: ImageNetwork) -> Sequence[str]:
    images = made_images(1, network.channels, network.resolution)
    with torch.no_grad():
        shapes = [tuple(output.shape[1:]) for output in network.module(images)]
    height, width = network.resolution
    told = ", ".join(
        f"`{name}` ({', '.join(map(str, ('B', *shape)))})" for name, shape in zip(network.outputs, shapes, strict=True)
    )
    return [f"in: `images` (B, {network.channels}, {height}, {width}), normalised, float32; out: {told}"]
