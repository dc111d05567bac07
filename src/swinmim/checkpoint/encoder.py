"""The encoder folder: weights, timm's config and our manifest, where pretraining ends and every task begins.

    config.json         timm's local-dir format: timm.create_model("local-dir:FOLDER", pretrained=True), AutoModel
    model.safetensors   parameters under timm's names, and a linear head under those of timm's classifier
    extra.safetensors   only if there is more: another head (`checkpoint.task_model`), SimMIM's mask token and decoder
    manifest.json       see `swinmim.checkpoint.manifest`

config.json is left out where timm cannot express the encoder (main-branch norms of H and G, linear position bias).
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from swinmim.checkpoint.coverage import Coverage, coverage
from swinmim.checkpoint.foreign import BESIDE, SUFFIXES, is_foreign, read_foreign
from swinmim.checkpoint.manifest import (
    HISTORY,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MANIFEST_NAME,
    Manifest,
    read_manifest,
)
from swinmim.checkpoint.timm_config import CLASSIFIER, timm_config, timm_obstacle
from swinmim.distributed import is_main
from swinmim.errors import CheckpointError
from swinmim.models.choices import Attention, Recompute
from swinmim.models.errors import nearest
from swinmim.models.position_bias import PositionBias
from swinmim.models.swinv2 import SwinV2
from swinmim.models.windows import as_pair
from swinmim.outside import faults
from swinmim.paths import shell_quoted
from swinmim.version import __version__

log = logging.getLogger(__name__)

WEIGHTS_NAME = "model.safetensors"
EXTRA_NAME = "extra.safetensors"
CONFIG_NAME = "config.json"
HEAD = "head."
"""Before the names of whatever answers a task on the encoder."""
CLASSIFIER_NAMES = (f"{CLASSIFIER}.weight", f"{CLASSIFIER}.bias")


class EncoderOptions(TypedDict, total=False):
    """What a loaded encoder may be given beside its weights, see `load_encoder` and `SwinV2`."""

    resolution: int | Sequence[int] | None
    window: int | Sequence[int] | None
    pad: bool
    in_chans: int | None
    drop_path: float
    recompute: Recompute | Sequence[Recompute]
    attention: Attention
    chunk: int | Sequence[int] | None
    position_bias: PositionBias | None


def save_encoder(
    encoder: SwinV2,
    folder: str | Path,
    manifest: Mapping[str, Any] | None = None,
    weights: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write an encoder folder, replacing an encoder folder (nothing else) of that name. Returns its path.

    manifest: any of mean, std (default: ImageNet's for 3 channels, else 0.5), recipe, data, metrics, parent, task,
        evaluation.
    weights: stored instead of the encoder's own state dict, where the module does not hold it (ZeRO-3) or where a head
    comes along as head.*, see `checkpoint.task_model`.
    The folder appears under its name only when complete. Raises CheckpointError for other manifest keys, values JSON
    cannot hold, or a place that holds something else.
    """
    folder = Path(folder)
    if (folder.exists() or folder.is_symlink()) and not _replaceable(folder):
        raise CheckpointError(f"{folder} exists and is not an encoder folder{_contents(folder)}; choose another path.")
    full = _manifest(encoder, manifest or {})
    state = {name: tensor.detach() for name, tensor in (weights or encoder.state_dict()).items()}
    model = {name: state.pop(name) for name in encoder.state_dict() if name in state}
    num_classes = 0
    head = {name: tensor.ndim for name, tensor in state.items() if name.startswith(HEAD)}
    if head == dict(zip(CLASSIFIER_NAMES, (2, 1), strict=True)):
        model |= {name: state.pop(name) for name in CLASSIFIER_NAMES}
        num_classes = len(model[f"{CLASSIFIER}.weight"])

    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = folder.with_name(f".{folder.name}.draft-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        full.write(draft)
        if timm_obstacle(encoder) is None:
            config = timm_config(encoder, full, num_classes)
            (draft / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n")
        write_tensors(draft / WEIGHTS_NAME, model)
        if state:
            write_tensors(draft / EXTRA_NAME, state)
        _put_in_place(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def write_tensors(file: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, for whom the others of its folder are; the library alone would keep it from other users."""
    file.touch()
    mode = stat.S_IMODE(file.stat().st_mode)
    with _os_errors():
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, file, metadata)
    file.chmod(mode)


@contextmanager
def _os_errors() -> Iterator[None]:
    """safetensors tells a full disk in words; callers look at the number."""
    try:
        yield
    except SafetensorError as error:
        if number := re.search(r"os error (\d+)", str(error)):
            raise OSError(int(number[1]), str(error)) from error
        raise


class Stored(NamedTuple):
    """Weights on disk, and what they are."""

    place: Path
    manifest: Manifest
    read: Callable[[], dict[str, Tensor]]
    """Every tensor, those beside the encoder too."""
    report: Coverage | None = None
    """Of published weights."""


def open_encoder(path: str | Path) -> Stored:
    """What stands at a path: an encoder folder (see `find_encoder_folder`), or published weights of another library."""
    if not is_foreign(Path(path)):
        folder = find_encoder_folder(path)
        return Stored(folder, read_manifest(folder), lambda: read_weights(folder))
    found = read_foreign(Path(path))
    return Stored(Path(path), _manifest(found.encoder, found.history), lambda: found.weights, found.report)


def load_encoder(path: str | Path, **options: Unpack[EncoderOptions]) -> SwinV2:
    """The encoder of a folder (see `find_encoder_folder`) or of published weights, in fp32 on the CPU.

    resolution: pixels; another one than the folder's grows or shrinks the windows in proportion, and the position bias
    extrapolates from the pretrained windows in the manifest. pad: take one that does not fit, see `SwinV2.resize`.
    in_chans: another number of input channels sums (to 1) or repeats (to more) the patch filters. The others: as for
    `SwinV2`. Raises CheckpointError when the folder is not one, or does not hold exactly the encoder's parameters (with
    a coverage report); ValueError for a resolution that does not fit. Under torch.device("meta"): without the weights.
    """
    return load_stored(open_encoder(path), **options)


def load_stored(stored: Stored, **options: Unpack[EncoderOptions]) -> SwinV2:
    """The same of what `open_encoder` found, for those who want more of it than the encoder."""
    place, manifest, read, published = stored
    encoder = encoder_of(manifest, **options)
    if torch.get_default_device().type == "meta":
        return encoder
    if published is not None and is_main():
        log.info("%s: %s", place, published)
    state = {name: t.float() for name, t in read().items() if not name.startswith(BESIDE)}
    if encoder.in_chans != manifest.in_chans:
        state = _adapt_channels(state, manifest.in_chans, encoder.in_chans, place)
    report = coverage(encoder.state_dict(), state)
    if not report.complete:
        raise CheckpointError(
            f"The weights of {place} are not those of {encoder.architecture.name} as its manifest describes it:\n"
            f"  {report}\nTake a folder that save_encoder wrote and nobody edited."
        )
    encoder.to_empty(device="cpu")
    encoder.load_state_dict(state)
    encoder.origin = manifest
    return encoder


def encoder_of(manifest: Manifest, **options: Unpack[EncoderOptions]) -> SwinV2:
    """The encoder that a manifest describes, on the meta device; options and errors as `load_encoder`."""
    architecture = manifest.architecture
    given: dict[str, Any] = dict(options)
    if (in_chans := given.pop("in_chans", None)) is not None:
        architecture = dataclasses.replace(architecture, in_chans=in_chans)
    if (resolution := given.get("resolution")) is None or as_pair(resolution) == manifest.resolution:
        given["resolution"] = manifest.resolution
        if given.get("window") is None:  # as it was saved, padded or not; later stages clamp the first one's window
            given |= {"window": manifest.windows[0], "pad": True}
    else:
        ratios = {side / window for side, window in zip(manifest.resolution, manifest.windows[0], strict=True)}
        if len(ratios) == 1 and (ratio := ratios.pop()) % architecture.patch_size == 0:  # not so where it was padded
            architecture = dataclasses.replace(architecture, window_ratio=int(ratio))
    given["position_bias"] = given.get("position_bias") or manifest.position_bias
    with torch.device("meta"):
        return SwinV2(architecture, pretrained_windows=manifest.pretrained_windows, **given)


def beside_encoder(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is stored beside an encoder: a head as head.*, SimMIM's mask_token and decoder.*; empty where nothing is."""
    return {name: tensor for name, tensor in weights.items() if name.startswith(BESIDE)}


def load_manifest(path: str | Path) -> Manifest:
    """The manifest of an encoder folder (see `find_encoder_folder`), or what it would be of published weights."""
    return open_encoder(path).manifest


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of an encoder folder, a head's too, as stored. Raises CheckpointError for a damaged file."""
    tensors: dict[str, Tensor] = {}
    for file in (folder / WEIGHTS_NAME, folder / EXTRA_NAME):
        if file.name == EXTRA_NAME and not file.exists():
            continue
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is damaged: {error}. Copy it again or save it anew.") from error
    return tensors


def find_encoder_folder(path: str | Path) -> Path:
    """The encoder folder at `path`: the folder itself, or encoder/ inside a run or checkpoint directory.

    Raises CheckpointError saying what was found instead.
    """
    path = Path(path)
    for folder in (path, path / "encoder"):
        if (folder / MANIFEST_NAME).exists() and (folder / WEIGHTS_NAME).is_file():  # a manifest of any kind is read
            return folder
    wanted = f"An encoder folder holds {WEIGHTS_NAME} and {MANIFEST_NAME}"
    if not path.exists():
        raise CheckpointError(f"{path} does not exist. Give an encoder folder, or a run directory with encoder/ in it.")
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file. {wanted}; give the folder"
            + (f" ({path.parent})." if (path.parent / MANIFEST_NAME).is_file() else ".")
            + f" Published weights end in {', '.join(SUFFIXES)}."
        )
    if is_foreign(path):
        raise CheckpointError(
            f"{path} has no {MANIFEST_NAME}: a model of timm or Hugging Face. Convert it first: "
            f"python scripts/convert_weights.py {shell_quoted(path)} FOLDER"
        )
    raise CheckpointError(f"{path} is not an encoder folder{_contents(path)}. {wanted}; a run has it as encoder/.")


def _manifest(encoder: SwinV2, history: Mapping[str, Any]) -> Manifest:
    for key in history:
        if key not in HISTORY:
            raise CheckpointError(f"The manifest takes {', '.join(HISTORY)}; got {key!r}.{nearest(key, HISTORY)}")
    given = {key: value for key, value in history.items() if value is not None}
    rgb = encoder.in_chans == len(IMAGENET_MEAN)
    for key, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        values = tuple(float(v) for v in given.get(key) or (default if rgb else (0.5,) * encoder.in_chans))
        if len(values) != encoder.in_chans:
            raise CheckpointError(f"{key} has one value for each of the {encoder.in_chans} channels; got {values}.")
        given[key] = values
    try:
        return Manifest(
            architecture=encoder.architecture,
            resolution=encoder.resolution,
            windows=tuple(stage.window for stage in encoder.stages),
            pretrained_windows=encoder.pretrained_windows,
            position_bias=encoder.position_bias,
            in_chans=encoder.in_chans,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={"swinmim": __version__} | {name: metadata.version(name) for name in ("torch", "timm")},
            **given,
        )
    except ValidationError as error:
        raise CheckpointError(f"An encoder folder cannot hold this: {'; '.join(faults(error))}.") from error


def _adapt_channels(state: dict[str, Tensor], old: int, new: int, folder: Path) -> dict[str, Tensor]:
    """Patch filters for another number of channels, at the same strength of response to equal channels."""
    name = "patch_embed.proj.weight"
    if name not in state:
        return state  # the coverage report says so
    weight = state[name]
    if new == 1:
        weight = weight.sum(1, keepdim=True)
    elif new > old:
        weight = weight[:, torch.arange(new) % old] * (old / new)
    else:
        raise CheckpointError(f"{folder} takes {old} channels; that can become 1 or more than {old}, not {new}.")
    return state | {name: weight.contiguous()}


def _replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return folder.is_symlink()  # a link to nothing
    complete = (folder / MANIFEST_NAME).is_file() and (folder / WEIGHTS_NAME).is_file()
    return complete or not any(folder.iterdir())


def _put_in_place(draft: Path, folder: Path) -> None:
    """Rename; a former folder steps aside first, for no longer than two renames."""
    if folder.is_symlink():
        folder.unlink()
    if not folder.exists():
        draft.rename(folder)
        return
    former = folder.with_name(f".{folder.name}.former-{os.getpid()}")
    folder.rename(former)
    draft.rename(folder)
    shutil.rmtree(former)


def _contents(path: Path) -> str:
    if not path.is_dir():
        return " but a file"
    names = sorted(p.name for p in path.iterdir())
    return f" (it holds {', '.join(names[:5])}{', ...' if len(names) > 5 else ''})" if names else " (it is empty)"
