"""One export, from the settings of its command to its last line."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

from swinmim.checkpoint.encoder import CLASSIFIER_NAMES, HEAD, Stored, load_stored, open_encoder
from swinmim.config import config_errors
from swinmim.export.card import HUGGING_FACE, ONNX, TIMM, TORCH_EXPORT, add_to_card
from swinmim.export.folder import new_folder
from swinmim.export.graph import ImageNetwork, encoder_network, write_onnx, write_program
from swinmim.export.huggingface import MODELS, check_huggingface, likeliest_part, write_huggingface
from swinmim.export.settings import ExportConfig
from swinmim.export.timm_folder import check_timm, write_timm
from swinmim.models.windows import Pair

TaskNetwork = Callable[[Stored, int | Pair | None], ImageNetwork]
"""Encoder and head of a task model; who knows tasks gives it."""


def export(source: str | Path, destination: str | Path, config: ExportConfig, task_network: TaskNetwork) -> list[str]:
    """Write the new folder, with a model card and the parity that was measured; returns the lines that say so.

    Raises CheckpointError, and writes nothing: the source is none, or cannot be expressed in the format; the folder
    exists; what was written computes something else. ConfigError: an extra is missing, a resolution does not fit.
    """
    with new_folder(destination) as draft, config_errors():
        stored = open_encoder(source)
        whole = config.part == "task" or (config.part is None and bool(_head(stored)))
        match config.format:
            case "timm":
                write_timm(stored, draft)
                checked = [str(parity) for parity in check_timm(stored, draft)]
                use, what = TIMM, "timm model"
                if _head(stored) - set(CLASSIFIER_NAMES):
                    what += " without the head, which is in extra.safetensors and none of timm's"
            case "hf":
                part = config.part or likeliest_part(stored)
                write_huggingface(stored, draft, part)
                parity = check_huggingface(stored, draft, part)
                checked = [f"transformers, {parity}" if parity else _UNCHECKED]
                use, what = HUGGING_FACE[part], MODELS[part]
                if part == "encoder" and config.part is None and _head(stored):
                    what += "; the head stays behind: Hugging Face has no model for it"
            case "onnx" | "torch_export":
                network = task_network(stored, config.resolution) if whole else _encoder(stored, config.resolution)
                write, use = (write_onnx, ONNX) if config.format == "onnx" else (write_program, TORCH_EXPORT)
                checked = [str(parity) for parity in write(stored, network, draft)]
                what = f"{network.what}, outputs {', '.join(network.outputs)}"
        add_to_card(draft, "Parity with the source", checked)
    lines = [f"wrote     {destination}: {what}", *(f"parity    {line}" for line in checked)]
    code = use.code.replace("FOLDER", str(destination)).splitlines()
    return [*lines, f"use       {code[0]}", *textwrap.indent("\n".join(code[1:]), " " * 10).splitlines()]


_UNCHECKED = "not measured, transformers is not installed: pip install 'swinmim[transformers]'"


def _encoder(stored: Stored, resolution: int | Pair | None) -> ImageNetwork:
    """The other cores of attention choose by the batch, which a graph cannot."""
    return encoder_network(load_stored(stored, resolution=resolution, attention="reference"))


def _head(stored: Stored) -> set[str]:
    """Names of the head's tensors; empty where there is no head."""
    return {name for name in stored.read() if name.startswith(HEAD)}
