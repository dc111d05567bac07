"""swinmim: pretrain SwinV2 on unlabelled images by masked image modelling, and take it to a task.

create_encoder, load_encoder, save_encoder, hf_backbone    the public Python API, with
load_model, preprocess    a trained task model; pictures as an encoder takes them
models/       the network, plain torch          optim/        parameter groups, schedules
checkpoint/   encoder folders, run checkpoints  training/     one run: skeleton, strategies, callbacks, faults
evaluation/   what a frozen encoder knows
door, composition, config, security             the way in: a command line becomes typed settings
errors, urls    what users are told, and not    distributed   who am I among the processes
outside         reading and showing what others wrote         export/       ways out
backbone        the encoder inside Hugging Face's transformers
tables, memory  what a run says about itself
private         private names of Lightning and torch          paths, version
"""

import importlib
from typing import TYPE_CHECKING, Any

from swinmim.version import __version__ as __version__

if TYPE_CHECKING:
    from swinmim.backbone import hf_backbone as hf_backbone
    from swinmim.checkpoint.encoder import load_encoder as load_encoder
    from swinmim.checkpoint.encoder import save_encoder as save_encoder
    from swinmim.models.swinv2 import create_encoder as create_encoder

__all__ = ["create_encoder", "hf_backbone", "load_encoder", "load_model", "preprocess", "save_encoder"]
_HOMES = {
    "create_encoder": "swinmim.models.swinv2",
    "hf_backbone": "swinmim.backbone",
    "load_encoder": "swinmim.checkpoint.encoder",
    "save_encoder": "swinmim.checkpoint.encoder",
    # By name alone: this package is below the one that knows tasks, and works without it.
    "load_model": "finetune.apply.predictor",
    "preprocess": "finetune.apply.predictor",
}


def __getattr__(name: str) -> Any:
    # At their first use: they need torch, and the processes that write shards do without.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
