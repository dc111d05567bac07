"""Hugging Face's own SwinV2: Swinv2Model, Swinv2ForMaskedImageModeling, Swinv2ForImageClassification.

Writing needs no transformers; `check_huggingface` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from swinmim.checkpoint.encoder import CLASSIFIER_NAMES, HEAD, Stored, load_stored, open_encoder, write_tensors
from swinmim.checkpoint.manifest import Manifest
from swinmim.checkpoint.names import to_huggingface
from swinmim.checkpoint.timm_config import CLASSIFIER, class_names, timm_obstacle
from swinmim.errors import CheckpointError
from swinmim.export.card import HUGGING_FACE, Content, write_card
from swinmim.export.folder import new_folder
from swinmim.export.parity import Parity, judge_modules, made_images
from swinmim.export.settings import Part
from swinmim.export.simmim import NAMES as SIMMIM_NAMES
from swinmim.export.simmim import read_simmim
from swinmim.models.swinv2 import SwinV2

LIMIT = 1e-5
MODELS: dict[Part, str] = {
    "encoder": "Swinv2Model",
    "simmim": "Swinv2ForMaskedImageModeling",
    "task": "Swinv2ForImageClassification",
}
CONTENT: dict[Part, Content] = {"encoder": "encoder", "simmim": "SimMIM model", "task": "task model"}
PROBLEMS = {"classify": "single_label_classification", "multilabel": "multi_label_classification"}
"""Kind of task -> what Hugging Face calls it. A classifier without a task (timm's, Microsoft's) is the first."""


def export_huggingface(source: str | Path, destination: str | Path, part: Part | None = None) -> Path:
    """Write a folder that `AutoModel*` and AutoImageProcessor load; the latter makes the images of the evaluation.

    part: encoder, simmim (with mask token and decoder, of a pretraining run), task (a linear classifier); default: task
    where there is one, else encoder. Raises CheckpointError, and writes nothing, for what Hugging Face has no setting
    for (main-branch norms, other biases, oblong windows, other heads), a part that is not there, or a destination that
    exists.
    """
    with new_folder(destination) as draft:
        stored = open_encoder(source)
        write_huggingface(stored, draft, part or likeliest_part(stored))
    return Path(destination)


def likeliest_part(stored: Stored) -> Part:
    """The classifier, where the folder has one that Hugging Face can express."""
    return "task" if _no_classifier(stored) is None else "encoder"


def write_huggingface(stored: Stored, folder: Path, part: Part) -> None:
    """Into an empty folder; raises as `export_huggingface`."""
    encoder, manifest = load_stored(stored), stored.manifest
    if (obstacle := _obstacle(encoder)) is not None:
        raise CheckpointError(f"Cannot export to Hugging Face: {obstacle}.")
    weights = to_huggingface(encoder.state_dict())
    config = _config(encoder) | {"architectures": [MODELS[part]]}
    if part != "encoder":
        weights = {f"swinv2.{name}": tensor for name, tensor in weights.items()}
    match part:
        case "simmim":
            beside = read_simmim(stored, encoder)
            weights["swinv2.embeddings.mask_token"] = beside.pop("mask_token").view(1, 1, -1)
            weights |= beside
        case "task":
            if (reason := _no_classifier(stored)) is not None:
                raise CheckpointError(reason)
            head = _classifier(stored)
            weights |= to_huggingface(head)
            config |= _labels(manifest, len(head[f"{CLASSIFIER}.bias"]))
    for name, content in (("config.json", config), ("preprocessor_config.json", _preprocessor(manifest))):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    write_tensors(folder / "model.safetensors", weights, {"format": "pt"})
    write_card(folder, stored, HUGGING_FACE[part], CONTENT[part])


def check_huggingface(stored: Stored, folder: Path, part: Part) -> Parity | None:
    """Of what transformers computes from the folder, against ours; None where it is not installed."""
    if find_spec("transformers") is None:
        return None
    import transformers

    encoder = load_stored(stored, attention="reference").eval()
    with _no_progress_bar():
        twin, loading = getattr(transformers, MODELS[part]).from_pretrained(folder, output_loading_info=True)
    if problems := {name: found for name, found in loading.items() if found}:
        raise CheckpointError(f"transformers does not load what was written; please report it: {problems}")
    inputs = [made_images(2, encoder.in_chans, encoder.resolution)]
    ours: Callable[..., list[Tensor]]
    match part:
        case "encoder":
            what, fields = "last map and pooled features", ["last_hidden_state", "pooler_output"]
            ours = partial(_encode, encoder)
        case "simmim":
            what, fields = "reconstruction", ["reconstruction"]
            ours = partial(_reconstruct, encoder, read_simmim(stored, encoder))
            height, width = encoder.stages[0].grid
            inputs.append(torch.rand(2, height * width, generator=torch.Generator().manual_seed(1)) < 0.6)
        case "task":
            what, fields = "logits", ["logits"]
            ours = partial(_classify, encoder, _classifier(stored))

    def theirs(*given: Tensor) -> list[Tensor]:
        output = twin(*given)
        return [output[field] for field in fields]

    return judge_modules(what, LIMIT, (encoder, ours), (twin.eval(), theirs), *inputs)


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _encode(encoder: SwinV2, images_BCHW: Tensor) -> list[Tensor]:
    tokens_BNC = encoder.forward_features(images_BCHW).flatten(1, 2)
    return [tokens_BNC, tokens_BNC.mean(1)]


def _classify(encoder: SwinV2, head: Mapping[str, Tensor], images_BCHW: Tensor) -> list[Tensor]:
    return [F.linear(encoder(images_BCHW), *(head[name].to(images_BCHW.dtype) for name in CLASSIFIER_NAMES))]


def _reconstruct(encoder: SwinV2, beside: Mapping[str, Tensor], images_BCHW: Tensor, mask_Bp: Tensor) -> list[Tensor]:
    """What SimMIM predicts, (B, C, H, W); mask per patch, True = masked."""
    token, weight, bias = (beside[name].to(images_BCHW.dtype) for name in SIMMIM_NAMES)
    tokens_BhwD = encoder.embed(images_BCHW)
    tokens_BhwD = torch.where(mask_Bp.view(*tokens_BhwD.shape[:3], 1), token, tokens_BhwD)
    map_BDhw = encoder.norm(encoder.encode(tokens_BhwD)[-1]).permute(0, 3, 1, 2)
    return [F.pixel_shuffle(F.conv2d(map_BDhw, weight, bias), encoder.stride)]


def _obstacle(encoder: SwinV2) -> str | None:
    """Why Swinv2Config cannot express this encoder, or None."""
    if (obstacle := timm_obstacle(encoder)) is not None:  # Hugging Face lacks the same
        return obstacle.replace("timm's SwinTransformerV2", "Hugging Face's Swinv2Model").replace(
            "timm", "Hugging Face"
        )
    if encoder.position_bias != "log":
        return "it always measures offsets in the pretrained window"
    if any(len(set(pair)) > 1 for pair in (encoder.resolution, encoder.stages[0].window, *encoder.pretrained_windows)):
        return "it takes square images and windows only"
    return None


def _no_classifier(stored: Stored) -> str | None:
    """Why there is no Swinv2ForImageClassification in it, or None."""
    names = {name for name in stored.read() if name.startswith(HEAD)}
    kind = (stored.manifest.task or {"kind": "classify"}).get("kind")
    if not names:
        return (
            f"{stored.place} holds an encoder without a head. Fine-tune it first: python -m finetune; or part=encoder."
        )
    if names != set(CLASSIFIER_NAMES) or kind not in PROBLEMS:
        return (
            f"Hugging Face has no model for the head of task={kind} in {stored.place}; it has one for a linear "
            f"classifier ({', '.join(PROBLEMS)}). Take format=onnx, or part=encoder."
        )
    return None


def _classifier(stored: Stored) -> dict[str, Tensor]:
    weights = stored.read()
    return {name: weights[name].float() for name in CLASSIFIER_NAMES}


def _config(encoder: SwinV2) -> dict[str, Any]:
    a = encoder.architecture
    return {
        "model_type": "swinv2",
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
        "encoder_stride": encoder.stride,
    }


def _labels(manifest: Manifest, num_classes: int) -> dict[str, Any]:
    names = class_names(manifest, num_classes) or [f"LABEL_{i}" for i in range(num_classes)]
    found: dict[str, Any] = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "problem_type": PROBLEMS[(manifest.task or {}).get("kind", "classify")],
    }
    if len(set(names)) == num_classes:
        found["label2id"] = {name: i for i, name in enumerate(names)}
    return found


def _preprocessor(manifest: Manifest) -> dict[str, Any]:
    """The evaluation view in Hugging Face's words."""
    view, (height, width) = manifest.evaluation, manifest.resolution
    scaled = [math.floor(side / view.crop_pct) for side in (height, width)]
    return {
        "image_processor_type": "BitImageProcessor",
        "size": {"height": scaled[0], "width": scaled[1]}
        if view.crop_mode == "squash"
        else {"shortest_edge": scaled[0]},
        "crop_size": {"height": height, "width": width},
        "resample": {"bilinear": 2, "bicubic": 3}[view.interpolation],
        "do_convert_rgb": manifest.in_chans == 3,
        "image_mean": list(manifest.mean),
        "image_std": list(manifest.std),
    }
