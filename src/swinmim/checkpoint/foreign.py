"""Weights of other SwinV2 implementations, read as if they were an encoder folder.

Sources: checkpoints of microsoft/Swin-Transformer (supervised and SimMIM, old `rpe_mlp` names included), of timm, and
of Hugging Face's Swinv2 models, as a file or as a folder with config.json. Files are read as tensors only, never as
pickled objects.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import re
import warnings
from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from pydantic import BaseModel
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from swinmim.checkpoint.coverage import Coverage, coverage
from swinmim.checkpoint.manifest import (
    MANIFEST_NAME,
    MOST_PIXELS,
    MOST_TOKENS,
    Evaluation,
    Pixels,
    Tokens,
    read_outside,
)
from swinmim.checkpoint.names import TABLES, find_layout, to_ours
from swinmim.checkpoint.timm_config import CLASSIFIER
from swinmim.errors import CheckpointError
from swinmim.models.architecture import ARCHITECTURES, Architecture
from swinmim.models.errors import ModelError
from swinmim.models.swinv2 import SwinV2
from swinmim.outside import UNLOADABLE
from swinmim.paths import shell_quoted

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
BESIDE = ("head.", "mask_token", "decoder.")
"""Before the names of what stands beside an encoder."""
_FILES = ("model.safetensors", "pytorch_model.bin")
_NO_SWINV2 = "describes no SwinV2"
_FIELDS = ("embed_dim", "depths", "head_dim", "patch_size", "mlp_ratio")
"""Of an Architecture: what shapes tell."""


@dataclasses.dataclass(frozen=True)
class Foreign:
    """A checkpoint of another library under our names."""

    encoder: SwinV2
    """On the meta device."""
    weights: dict[str, Tensor]
    """The encoder's, float32; beside them head.fc.*, mask_token, decoder.* where there are some."""
    history: dict[str, Any]
    """For the manifest, see `save_encoder`."""
    report: Coverage


Resolution = Pixels | list[Pixels]
Window = Tokens | list[Tokens] | list[list[Tokens]]
Units = Annotated[int, Ge(0), Le(MOST_TOKENS)]
Pretrained = Units | list[Units] | list[list[Units]]


class _TimmArguments(BaseModel):
    img_size: Resolution | None = None
    window_size: Window | None = None
    pretrained_window_sizes: Pretrained | None = None
    depths: list[int] | None = None


class _Preprocessing(Evaluation, extra="ignore"):
    mean: list[float] | None = None
    std: list[float] | None = None
    label_names: tuple[str, ...] = ()


class _Timm(BaseModel):
    """config.json of timm."""

    architecture: str = ""
    model_args: _TimmArguments = _TimmArguments()
    pretrained_cfg: _Preprocessing = _Preprocessing()
    label_names: tuple[str, ...] = ()


class _HuggingFace(BaseModel):
    """config.json of Hugging Face."""

    model_type: Literal["swinv2"]
    image_size: Resolution
    window_size: Window
    pretrained_window_sizes: Pretrained | None = None
    depths: list[int]
    id2label: dict[int, str] = {}


class _Processor(BaseModel):
    """preprocessor_config.json of Hugging Face."""

    image_mean: list[float] | None = None
    image_std: list[float] | None = None


@dataclasses.dataclass
class _Said:
    """What a source says beside its tensors."""

    resolution: Any = None
    window: Any = None
    pretrained_windows: list[int] | None = None
    depths: tuple[int, ...] | None = None
    classes: tuple[str, ...] = ()
    history: dict[str, Any] = dataclasses.field(default_factory=dict)


def is_foreign(path: Path) -> bool:
    """Whether a path is a file of tensors, or a folder with one, without a manifest of ours."""
    if path.is_dir():
        ours = any((path / part / MANIFEST_NAME).exists() for part in (".", "encoder"))
        return not ours and any((path / name).is_file() for name in _FILES)
    return path.is_file() and path.suffix in SUFFIXES and not (path.parent / MANIFEST_NAME).is_file()


def read_foreign(source: Path, *, resolution: int | None = None, window: int | None = None) -> Foreign:
    """Read a file or folder of another library.

    resolution (pixels) and window (tokens) of the training: needed where the source does not say them, refused where it
    says otherwise. Raises CheckpointError for another architecture, damaged weights, or weights that do not cover the
    encoder.
    """
    file = _weights_file(source)
    tensors = _read_tensors(file)
    said = _read_config(file.parent, tensors) if file.name in _FILES else _tables_say(tensors)
    for name, given, most in (("resolution", resolution, MOST_PIXELS), ("window", window, MOST_TOKENS)):
        if given is not None and not 0 < given <= most:
            raise CheckpointError(f"{name} is 1 to {most}; got {given}.")
        found = getattr(said, name)
        if given is not None and found not in (None, given):
            raise CheckpointError(f"{source} was trained at {name} {found}, not {given}. Drop {name}.")
        if found is None and given is None:
            command = f"python scripts/convert_weights.py {shell_quoted(source)} FOLDER --resolution ... --window ..."
            raise CheckpointError(
                f"{source} does not say its {name}. Convert it with that of its training (192 and 12 for "
                f"swinv2_base_window12_192): {command}"
            )
        setattr(said, name, given if found is None else found)
    layout = find_layout(tensors)
    ours = to_ours(tensors, layout)
    if bad := [name for name, tensor in ours.items() if not tensor.isfinite().all()]:
        raise CheckpointError(
            f"{source} is damaged: {len(bad)} of {len(ours)} tensors are not finite ({', '.join(bad[:4])}). "
            "Take another copy or an earlier checkpoint."
        )
    architecture = find_architecture(ours)
    if said.depths not in (None, architecture.depths):
        raise CheckpointError(
            f"{source} has {architecture.depths} blocks in its stages; by its config it has {said.depths}. Its weights "
            "are incomplete, or of another model."
        )
    encoder = _encoder(source, architecture, said)
    weights = {name: tensor.float() for name, tensor in ours.items()}
    report = coverage(encoder.state_dict(), {n: t for n, t in weights.items() if not n.startswith(BESIDE)})
    if not report.complete:
        raise CheckpointError(f"{source} ({layout} names) does not cover {architecture.name}:\n  {report}")
    kept, notes = _beside(weights, encoder)
    dropped = Counter(table for name in tensors for table in TABLES if name.endswith(f".{table}"))
    tables = [f"dropped {sum(dropped.values())} tables, which are computed: {', '.join(dropped)}"] if dropped else []
    report = dataclasses.replace(report, notes=(f"{layout} names", *_describe(encoder), *notes, *tables))
    if f"{CLASSIFIER}.weight" in kept and len(said.classes) == len(kept[f"{CLASSIFIER}.weight"]):
        said.history["task"] = {"kind": "classify", "classes": list(said.classes)}
    history = said.history | {"parent": str(source), "recipe": {"converted_from": str(layout)}}
    return Foreign(encoder, {n: weights[n] for n in encoder.state_dict()} | kept, history, report)


def _weights_file(source: Path) -> Path:
    if not source.is_dir():
        return source
    file = next((source / name for name in _FILES if (source / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{source} holds neither {' nor '.join(_FILES)}.")
    return file


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        # Official training code saves its settings beside the weights; a plain mapping, which runs nothing, stands in.
        with torch.serialization.safe_globals([(OrderedDict, "yacs.config.CfgNode")]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other versions of pickle: what cannot be read is an error
            content = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unpickler error:" not in str(error) or "Unsupported operand" in str(error):
            raise CheckpointError(f"{file} cannot be read: it is no file of tensors, or damaged.") from error
        raise CheckpointError(
            f"{file} holds Python objects besides tensors, which could run code: {_unpickling_trouble(error)} "
            "Where you trust it, load it yourself and save only its tensors: torch.save({'model': ckpt['model']}, ...)."
        ) from error
    except (SafetensorError, *UNLOADABLE) as error:
        raise CheckpointError(
            f"{file} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{file} holds no named tensors.")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _unpickling_trouble(error: pickle.UnpicklingError) -> str:
    """What torch met; the rest of its message advises to run it all the same."""
    lines = str(error).splitlines()
    return next(
        (line.split("WeightsUnpickler error:")[1].strip() for line in lines if "Unpickler error:" in line), lines[0]
    )


def find_architecture(state: Mapping[str, Tensor]) -> Architecture:
    """The architecture of weights under our names, by their shapes; one of ARCHITECTURES where it is."""
    blocks: dict[int, set[int]] = {}
    for name in state:
        if match := re.match(r"layers\.(\d{1,4})\.blocks\.(\d{1,4})\.", name):
            blocks.setdefault(int(match[1]), set()).add(int(match[2]))
    depths = {stage: len(found) for stage, found in sorted(blocks.items())}
    for stage, found in blocks.items():
        if lacking := set(range(max(found) + 1)) - found:
            raise CheckpointError(
                f"The weights lack block {min(lacking)} of stage {stage}, which has {max(found) + 1}."
            )
    wanted = [f"layers.{s}.blocks.0.attn.logit_scale" for s in range(len(depths))]
    patch, hidden = state.get("patch_embed.proj.weight"), state.get("layers.0.blocks.0.mlp.fc1.weight")
    if patch is None or hidden is None or not depths or any(name not in state for name in wanted):
        raise CheckpointError("The weights lack patch_embed, an MLP or a logit scale: not a whole SwinV2 encoder.")
    if patch.ndim != 4 or hidden.ndim != 2 or not 0 < state[wanted[0]].numel() <= len(patch):
        raise CheckpointError(f"The weights have shapes of no SwinV2: patch_embed.proj.weight {tuple(patch.shape)}.")
    embed_dim, in_chans, patch_size, _ = patch.shape
    fields: dict[str, Any] = {
        "embed_dim": embed_dim,
        "depths": tuple(depths.values()),
        "head_dim": embed_dim // state[wanted[0]].numel(),
        "patch_size": patch_size,
        "mlp_ratio": hidden.shape[0] / embed_dim,
        "in_chans": in_chans,
    }
    for known in ARCHITECTURES.values():
        if not known.extra_norms and all(getattr(known, field) == fields[field] for field in _FIELDS):
            return dataclasses.replace(known, in_chans=in_chans)
    return Architecture(name="swinv2_custom", **fields)


def _encoder(source: Path, architecture: Architecture, said: _Said) -> SwinV2:
    """On the meta device; the ratio of resolution and window is the source's."""
    if isinstance(said.resolution, int) and isinstance(said.window, int) and said.window > 0:
        ratio, rest = divmod(said.resolution, said.window)
        architecture = dataclasses.replace(architecture, window_ratio=architecture.window_ratio if rest else ratio)
    try:
        with torch.device("meta"):
            return SwinV2(
                architecture,
                resolution=said.resolution,
                window=said.window,
                pretrained_windows=said.pretrained_windows,
            )
    except ModelError as error:
        raise CheckpointError(f"{source} cannot have been trained as it says: {error}") from error


def _beside(weights: Mapping[str, Tensor], encoder: SwinV2) -> tuple[dict[str, Tensor], list[str]]:
    """Classifier, and mask token and decoder, where they are whole and fit the encoder, and a line on each."""
    found = {name: tensor for name, tensor in weights.items() if name.startswith(BESIDE)}
    if "mask_token" in found:
        found["mask_token"] = found["mask_token"].flatten()  # (1, 1, C) elsewhere
    kept: dict[str, Tensor] = {}
    notes = []
    classes = len(found.get(f"{CLASSIFIER}.bias", ()))
    pixels = encoder.stride**2 * encoder.in_chans
    for what, shapes in (
        (
            f"classifier: kept, {classes} classes",
            {f"{CLASSIFIER}.weight": (classes, encoder.num_features), f"{CLASSIFIER}.bias": (classes,)},
        ),
        (
            "mask token and decoder of SimMIM: kept",
            {
                "mask_token": (encoder.architecture.embed_dim,),
                "decoder.0.weight": (pixels, encoder.num_features, 1, 1),
                "decoder.0.bias": (pixels,),
            },
        ),
    ):
        if shapes.items() <= {name: tuple(tensor.shape) for name, tensor in found.items()}.items():
            kept |= {name: found.pop(name) for name in shapes}
            notes.append(what)
    if found:
        notes.append(f"dropped {', '.join(found)}: no whole classifier, or mask token and decoder, of this encoder")
    return kept, notes


def _describe(encoder: SwinV2) -> list[str]:
    a = encoder.architecture
    line = f"architecture {a.name}: {', '.join(f'{field} {getattr(a, field)}' for field in (*_FIELDS, 'in_chans'))}"
    if a.name not in ARCHITECTURES:
        for known in ARCHITECTURES.values():
            same = [field for field in _FIELDS if getattr(known, field) == getattr(a, field)]
            if len(same) == len(_FIELDS):
                line += f"; {known.name} without its {known.extra_norms} norms on the main branch"
            elif len(same) == len(_FIELDS) - 1 and "depths" not in same:
                line += f"; {known.name} has depths {known.depths}"
    windows = ", ".join("x".join(map(str, stage.window)) for stage in encoder.stages)
    trained = ", ".join("x".join(map(str, window)) for window in encoder.pretrained_windows)
    side = "x".join(map(str, encoder.resolution))
    return [line, f"resolution {side} px, windows {windows}, position bias in units of {trained}"]


def _read_config(folder: Path, tensors: Mapping[str, Tensor]) -> _Said:
    """What config.json says, and the tables where it does not."""
    file = folder / "config.json"
    if not file.is_file():
        return _tables_say(tensors)
    content = read_outside(file, dict[str, Any], "cannot be read")
    if "model_type" in content:
        return _huggingface_says(read_outside(file, _HuggingFace, _NO_SWINV2), folder)
    if "architecture" in content:
        return _timm_says(read_outside(file, _Timm, _NO_SWINV2))
    return _tables_say(tensors)


def _huggingface_says(config: _HuggingFace, folder: Path) -> _Said:
    file = folder / "preprocessor_config.json"
    processor = read_outside(file, _Processor, _NO_SWINV2) if file.is_file() else _Processor()
    return _Said(
        resolution=_one(config.image_size),
        window=_first(config.window_size),
        pretrained_windows=_pretrained(config.pretrained_window_sizes),
        depths=tuple(config.depths),
        classes=tuple(config.id2label.get(i, str(i)) for i in range(len(config.id2label))),
        history={"mean": processor.image_mean, "std": processor.image_std},
    )


def _timm_says(config: _Timm) -> _Said:
    """Its arguments, else its name: swinv2_base_window12to24_192to384 was pretrained with windows 12, 12, 12, 6."""
    args, seen = config.model_args, config.pretrained_cfg
    said = _Said(
        classes=config.label_names or seen.label_names,
        history={
            "mean": seen.mean,
            "std": seen.std,
            "evaluation": Evaluation(
                crop_pct=seen.crop_pct, crop_mode=seen.crop_mode, interpolation=seen.interpolation
            ),
        },
    )
    if match := re.search(r"_window(\d+)(?:to(\d+))?_(\d+)(?:to(\d+))?$", config.architecture.split(".")[0]):
        first_window, window, first_resolution, resolution = (int(n) if n else 0 for n in match.groups())
        said.window, said.resolution = window or first_window, resolution or first_resolution
        if window:
            said.pretrained_windows = [min(first_window, first_resolution // (4 << stage)) for stage in range(4)]
    if match := re.match(r"swinv2_(tiny|small|base|large)_", config.architecture):
        said.depths = ARCHITECTURES[f"swinv2_{match[1][0]}"].depths
    said.depths = tuple(args.depths) if args.depths is not None else said.depths
    said.resolution = said.resolution if args.img_size is None else _one(args.img_size)
    said.window = said.window if args.window_size is None else _first(args.window_size)
    said.pretrained_windows = _pretrained(args.pretrained_window_sizes) or said.pretrained_windows
    return said


def _tables_say(tensors: Mapping[str, Tensor]) -> _Said:
    """The official code saves its tables."""
    said = _Said()
    for name, tensor in tensors.items():
        if name.endswith("layers.0.blocks.0.attn.relative_position_index"):
            said.window = math.isqrt(len(tensor))
    for name, tensor in tensors.items():
        if name.endswith("layers.0.blocks.1.attn_mask") and said.window:
            patch = next((t.shape[-1] for n, t in tensors.items() if n.endswith("patch_embed.proj.weight")), 0)
            said.resolution = said.window * math.isqrt(len(tensor)) * patch or None
    tables = {
        int(match[1]): tensor
        for name, tensor in tensors.items()
        if (match := re.search(r"layers\.(\d+)\.blocks\.0\.attn\.relative_coords_table$", name))
    }
    if tables and all(len(table) == 1 and table.any() for table in tables.values() if table.shape[1] > 1):
        said.pretrained_windows = [_unit_of_coords(tables[stage]) for stage in sorted(tables)]
    return said


def _unit_of_coords(table_1HW2: Tensor) -> int:
    """The window that a table of relative coordinates was measured in, see `relative_coords`."""
    last = table_1HW2.shape[1] // 2
    if last == 0:
        return 1  # one token: its only coordinate is 0 in any unit
    return 1 + round(8 * last / (2 ** (3 * float(table_1HW2.max())) - 1))


def _one(value: Any) -> Any:
    """The one number that a size stands for; height and width where they differ."""
    while isinstance(value, list) and value and (isinstance(value[0], list) or len(set(value)) == 1):
        value = value[0]
    return value


def _first(window: Any) -> Any:
    """The window of the first stage; later ones are clamped to their grid."""
    window = _one(window)
    return window[0] if isinstance(window, list) else window


def _pretrained(windows: Any) -> list[int] | None:
    """0 stands for the window in use, which is our default."""
    found = [_one(window) for window in windows] if isinstance(windows, list) else []
    return found if found and all(found) else None
