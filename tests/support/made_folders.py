"""Encoder folders and task models on disk, small, with weights at which every part of the network matters."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinmim.checkpoint.task_model import save_task_model
from swinmim.models.swinv2 import SwinV2, create_encoder


def made_encoder(resolution: int = 64, **options: Any) -> SwinV2:
    """Two stages, both with shifted windows at 64 px, grown from the windows of 32 px."""
    shape: dict[str, Any] = {"embed_dim": 16, "depths": (2, 2), "head_dim": 8, "window_ratio": 16} | options
    encoder = create_encoder("swinv2_t", resolution=32, **shape)
    encoder.resize(resolution)
    spread(encoder)
    return encoder.eval()


def spread(module: nn.Module, seed: int = 0) -> None:
    """At initialisation every block is the identity."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            parameter.copy_(mean + 0.2 * torch.randn(parameter.shape, generator=generator))


def made_task_model(folder: Path, head: nn.Module, encoder: SwinV2 | None = None, **manifest: Any) -> Path:
    encoder = encoder or made_encoder()
    spread(head, 1)
    parts = {"encoder": encoder, "head": head}
    weights = {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}
    return save_task_model(encoder, folder, weights, manifest)
