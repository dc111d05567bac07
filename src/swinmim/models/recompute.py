"""Activation checkpointing as a policy: what a block keeps for the backward pass, and what it computes again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from swinmim.models.choices import Recompute

_ATEN = torch.ops.aten
_KEPT = (
    _ATEN.mm.default,
    _ATEN.addmm.default,
    _ATEN._scaled_dot_product_efficient_attention.default,
    torch.ops.swinmim.chunked_attention.default,
)


def run(block: Callable[..., Tensor], tokens: Tensor, *inputs: object, recompute: Recompute) -> Tensor:
    """block(tokens, *inputs) under the policy; the gradients are those of `none`.

    Non-reentrant, so that it works inside a compiled block, under DDP, and with frozen inputs. Nothing in a block
    draws random numbers.
    """
    if recompute == "none" or not torch.is_grad_enabled():
        return block(tokens, *inputs)
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if recompute == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, _policy)
    out: Tensor = checkpoint(block, tokens, *inputs, **options)
    return out


def _policy(ctx: object, op: object, *args: object, **kwargs: object) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if op in _KEPT else CheckpointPolicy.PREFER_RECOMPUTE
