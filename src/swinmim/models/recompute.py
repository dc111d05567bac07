"""Activation checkpointing as a policy: which blocks keep nothing and run again in the backward pass."""

from __future__ import annotations

from typing import Literal, cast, get_args

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Recompute = Literal["none", "full"]
RECOMPUTES: tuple[str, ...] = get_args(Recompute)


def run_block(block: nn.Module, tokens_BHWC: Tensor, *tables: object, recompute: str) -> Tensor:
    """Run one block under the policy. `full` keeps only the block's input; gradients are those of `none`."""
    if recompute == "full" and block.training and tokens_BHWC.requires_grad:
        # Non-reentrant: composes with compile, DDP and frozen inputs.
        return cast(Tensor, checkpoint(block, tokens_BHWC, *tables, use_reentrant=False))
    return cast(Tensor, block(tokens_BHWC, *tables))
