"""Weights of other SwinV2 implementations to an encoder folder, and an encoder folder to Hugging Face.

Sources: checkpoints of microsoft/Swin-Transformer (supervised and SimMIM, old `rpe_mlp` names included), of timm, and
of Hugging Face's Swinv2 models, as a file or as a folder with config.json. Files are read as tensors only, never as
pickled objects.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from swinmim.checkpoint.coverage import Coverage, coverage
from swinmim.checkpoint.encoder import HEAD, find_encoder_folder, load_encoder, read_weights, save_encoder
from swinmim.checkpoint.names import find_layout, to_huggingface, to_ours
from swinmim.checkpoint.timm_config import CLASSIFIER, timm_obstacle
from swinmim.errors import CheckpointError
from swinmim.models.architecture import ARCHITECTURES, Architecture
from swinmim.models.swinv2 import SwinV2

_NOT_ENCODER = ("mask_token", "decoder.", HEAD)


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    resolution: int | None = None,
    window: int | None = None,
    head_rows: str | Path | None = None,
) -> Coverage:
    """Write an encoder folder from another library's checkpoint. Returns what was matched; SimMIM's decoder is dropped.

    resolution (pixels) and window (tokens) of the training: needed where the source does not say them, refused where it
    says otherwise. head_rows: a text file that picks classes of the head, see `read_rows`; without it the head stays
    whole. Raises CheckpointError for another architecture, weights that do not cover the encoder, or rows that do not
    fit the head.
    """
    source = Path(source)
    state, config = read_foreign(source)
    layout = find_layout(state)
    found = _geometry(state, config)
    for name, given in (("resolution", resolution), ("window", window)):
        if given is not None and found.setdefault(name, given) != given:
            raise CheckpointError(f"{source} was trained at {name} {found[name]}, not {given}. Drop {name}.")
    for name in ("resolution", "window"):
        if name not in found:
            raise CheckpointError(
                f"{source} does not say its {name}. Give the {name} of its training (swinv2_base_window12_192: "
                "resolution 192, window 12)."
            )
    ours = to_ours(state, layout)
    architecture = find_architecture(ours)
    with torch.device("meta"):
        encoder = SwinV2(
            architecture,
            resolution=found["resolution"],
            window=found["window"],
            pretrained_windows=found.get("pretrained_windows"),
        )
    weights = {name: t.float() for name, t in ours.items() if not name.startswith(_NOT_ENCODER)}
    report = coverage(encoder.state_dict(), weights)
    if not report.complete:
        raise CheckpointError(f"{source} ({layout} names) does not cover {architecture.name}:\n  {report}")
    head, recipe = _head(ours), {"converted_from": str(layout)}
    if head_rows is not None:
        if not head:
            raise CheckpointError(f"{source} has no classifier whose rows {head_rows} could pick. Drop the rows.")
        num_classes = len(next(iter(head.values())))
        rows = read_rows(Path(head_rows), num_classes)
        recipe |= {"head_rows": str(head_rows)}
        report = dataclasses.replace(report, notes=(f"head: {len(rows)} of {num_classes} classes picked",))
        head = {name: tensor[rows] for name, tensor in head.items()}
    save_encoder(encoder, destination, {"parent": str(source), "recipe": recipe}, weights | head)
    return report


def read_rows(file: Path, num_classes: int) -> list[int]:
    """Which class of the source each class of the new head comes from: one number per line, from 0; order counts.

    As map22kto1k.txt of microsoft/Swin-Transformer, which takes ImageNet-22K heads to ImageNet-1K. Raises
    CheckpointError, naming the line, for what is no number, not a class of the source, or there twice.
    """
    try:
        lines = file.read_text().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    if not "".join(lines).strip():
        raise CheckpointError(f"{file} is empty; it has one class number of the source per line.")
    rows: dict[int, int] = {}
    for number, line in enumerate("\n".join(lines).rstrip().split("\n"), start=1):
        if not line.strip().isdecimal():
            raise CheckpointError(f"{file}, line {number}: one class number of the source per line; got {line!r}.")
        row = int(line)
        if row >= num_classes:
            raise CheckpointError(
                f"{file}, line {number}: class {row} of a head with {num_classes} classes (0 to {num_classes - 1}). "
                "The file belongs to another head."
            )
        if row in rows:
            raise CheckpointError(f"{file}, line {number}: class {row} is in line {rows[row]} already.")
        rows[row] = number
    return list(rows)


def export_huggingface(source: str | Path, destination: str | Path) -> Path:
    """Write a folder for Swinv2Model.from_pretrained, or Swinv2ForImageClassification with a linear head; others stay.

    Raises CheckpointError for what Hugging Face has no setting for: main-branch norms, other biases, oblong windows.
    """
    folder = find_encoder_folder(source)
    encoder, destination = load_encoder(folder), Path(destination)
    head = {name: t for name, t in read_weights(folder).items() if name.startswith(f"{CLASSIFIER}.")}
    obstacle = timm_obstacle(encoder)  # Hugging Face lacks the same
    if obstacle is None and encoder.position_bias != "log":
        obstacle = "it always measures offsets in the pretrained window"
    if obstacle is None and any(len(set(pair)) > 1 for pair in (encoder.resolution, encoder.stages[0].window)):
        obstacle = "it takes square images and windows only"
    if obstacle is not None:
        raise CheckpointError(f"Cannot export to Hugging Face: {obstacle.replace('timm', 'Hugging Face')}.")
    if destination.exists():
        raise CheckpointError(f"{destination} exists; choose another path.")
    a = encoder.architecture
    config: dict[str, Any] = {
        "model_type": "swinv2",
        "architectures": ["Swinv2ForImageClassification" if head else "Swinv2Model"],
        "image_size": encoder.resolution[0],
        "patch_size": a.patch_size,
        "num_channels": a.in_chans,
        "embed_dim": a.embed_dim,
        "depths": list(a.depths),
        "num_heads": list(a.num_heads),
        "window_size": encoder.stages[0].window[0],
        "pretrained_window_sizes": [window[0] for window in encoder.pretrained_windows],
        "mlp_ratio": a.mlp_ratio,
        "drop_path_rate": 0.0,
    }
    weights = to_huggingface(encoder.state_dict())
    if head:
        weights = {f"swinv2.{name}": tensor for name, tensor in weights.items()} | to_huggingface(head)
        config |= {"id2label": {str(i): f"LABEL_{i}" for i in range(len(head[f"{CLASSIFIER}.weight"]))}}
    destination.mkdir(parents=True)
    (destination / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tensors = {name: tensor.detach().contiguous() for name, tensor in weights.items()}
    save_file(tensors, destination / "model.safetensors", metadata={"format": "pt"})
    return destination


def read_foreign(source: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors of a checkpoint file or folder, and the config.json beside them ({} without)."""
    file, config = source, {}
    if source.is_dir():
        names = ("model.safetensors", "pytorch_model.bin")
        file = next((source / name for name in names if (source / name).is_file()), source)
        if file == source:
            raise CheckpointError(f"{source} holds neither {' nor '.join(names)}.")
        if (source / "config.json").is_file():
            config = json.loads((source / "config.json").read_text())
    try:
        # Official training code saves its settings beside the weights; a plain mapping, which runs nothing, stands in.
        with torch.serialization.safe_globals([(OrderedDict, "yacs.config.CfgNode")]):
            content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds Python objects besides tensors, which could run code: {_unpickling_trouble(error)} "
            "Where you trust it, load it yourself and save only its tensors: torch.save({'model': ckpt['model']}, ...)."
        ) from error
    except (OSError, RuntimeError, SafetensorError, EOFError) as error:
        raise CheckpointError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file} holds no named tensors.")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}, config


def _unpickling_trouble(error: pickle.UnpicklingError) -> str:
    """What torch met; the rest of its message advises to run it all the same."""
    lines = str(error).splitlines()
    return next(
        (line.split("WeightsUnpickler error:")[1].strip() for line in lines if "Unpickler error:" in line), lines[0]
    )


def find_architecture(state: Mapping[str, Tensor]) -> Architecture:
    """The architecture of weights under our names, by their shapes; one of ARCHITECTURES where it is."""
    depths: dict[int, int] = {}
    for name in state:
        if match := re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name):
            stage, block = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
    wanted = [f"layers.{s}.blocks.0.attn.logit_scale" for s in range(len(depths))]
    patch, hidden = state.get("patch_embed.proj.weight"), state.get("layers.0.blocks.0.mlp.fc1.weight")
    if patch is None or hidden is None or not depths or any(name not in state for name in wanted):
        raise CheckpointError("The weights lack patch_embed, an MLP or a logit scale: not a whole SwinV2 encoder.")
    embed_dim, in_chans, patch_size, _ = patch.shape
    fields: dict[str, Any] = {
        "embed_dim": embed_dim,
        "depths": tuple(depths[s] for s in sorted(depths)),
        "head_dim": embed_dim // state[wanted[0]].numel(),
        "patch_size": patch_size,
        "mlp_ratio": hidden.shape[0] / embed_dim,
        "in_chans": in_chans,
    }
    for known in ARCHITECTURES.values():
        if not known.extra_norms and all(
            getattr(known, field) == value for field, value in fields.items() if field != "in_chans"
        ):
            return dataclasses.replace(known, in_chans=in_chans)
    return Architecture(name="swinv2_custom", **fields)


def _geometry(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Any]:
    """What the source says of resolution, window and pretrained windows."""
    if config.get("model_type") == "swinv2":
        return _known(config["image_size"], config["window_size"], config.get("pretrained_window_sizes"))
    if "architecture" in config or "model_args" in config:
        args = config.get("model_args", {})
        said = _known(args.get("img_size"), args.get("window_size"), args.get("pretrained_window_sizes"))
        return _geometry_of_name(str(config.get("architecture"))) | said
    # The official code saves its tables.
    found: dict[str, Any] = {}
    for name, tensor in state.items():
        if name.endswith("layers.0.blocks.0.attn.relative_position_index"):
            found["window"] = math.isqrt(len(tensor))
    for name, tensor in state.items():
        if name.endswith("layers.0.blocks.1.attn_mask") and "window" in found:
            patch = next(t.shape[-1] for n, t in state.items() if n.endswith("patch_embed.proj.weight"))
            found["resolution"] = found["window"] * math.isqrt(len(tensor)) * patch
    tables = {
        int(match[1]): tensor
        for name, tensor in state.items()
        if (match := re.search(r"layers\.(\d+)\.blocks\.0\.attn\.relative_coords_table$", name))
    }
    if tables and all(len(table) == 1 and table.any() for table in tables.values() if table.shape[1] > 1):
        found["pretrained_windows"] = [_unit_of_coords(tables[stage]) for stage in sorted(tables)]
    return found


def _geometry_of_name(name: str) -> dict[str, Any]:
    """What a model name of timm says: swinv2_base_window12to24_192to384 was pretrained with windows 12, 12, 12, 6."""
    match = re.search(r"_window(\d+)(?:to(\d+))?_(\d+)(?:to(\d+))?$", name)
    if match is None:
        return {}
    first_window, window, first_resolution, resolution = (int(n) if n else None for n in match.groups())
    found: dict[str, Any] = {"window": window or first_window, "resolution": resolution or first_resolution}
    if window is not None and first_window is not None and first_resolution is not None:
        found["pretrained_windows"] = [min(first_window, first_resolution // (4 << stage)) for stage in range(4)]
    return found


def _unit_of_coords(table_1HW2: Tensor) -> int:
    """The window that a table of relative coordinates was measured in, see `relative_coords`."""
    last = table_1HW2.shape[1] // 2
    if last == 0:
        return 1  # one token: its only coordinate is 0 in any unit
    return 1 + round(8 * last / (2 ** (3 * float(table_1HW2.max())) - 1))


def _known(resolution: Any, window: Any, pretrained: Any) -> dict[str, Any]:
    def one(value: Any) -> Any:
        while isinstance(value, list) and value and (isinstance(value[0], list) or len(set(value)) == 1):
            value = value[0]
        return value

    found = {name: one(value) for name, value in (("resolution", resolution), ("window", window)) if value is not None}
    if isinstance(found.get("window"), list):
        found["window"] = found["window"][0]  # per stage; later ones are clamped to their grid
    # 0 stands for the window in use, which is our default.
    if pretrained and all(one(value) for value in pretrained):
        found["pretrained_windows"] = [one(value) for value in pretrained]
    return found


def _head(ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The classifier, under timm's names; nothing where a part of it is missing."""
    names = [f"{CLASSIFIER}.{part}" for part in ("weight", "bias")]
    return {name: ours[name].float() for name in names} if all(name in ours for name in names) else {}
