"""Continuous relative position bias: the coordinates fed to its MLP, and the spreading of its output over a window.

Shapes: N tokens of one window, h heads, L relative offsets of one window, (2H-1) * (2W-1).
Source: Swin V2 paper (arXiv 2111.09883) section 3.3, and models/swin_transformer_v2.py of microsoft/Swin-Transformer,
which normalises the offsets before the logarithm; the paper does not say so.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from swinmim.models.windows import Pair

PositionBias = Literal["log", "log_renormalised", "linear"]
POSITION_BIASES: tuple[str, ...] = get_args(PositionBias)


def relative_coords(
    window: Pair, pretrained_window: Pair, *, kind: PositionBias = "log", device: torch.device | None = None
) -> Tensor:
    """Coordinates of every relative offset of a window, (2H-1, 2W-1, 2), fp32.

    With u = offset / (W - 1), W the window in pre-training (guarded for W = 1):
    log: sign(u) log2(1 + 8 |u|) / log2(8), at most 1.0566 on the pretrained window, 1.3826 when 12 grows to 24;
    log_renormalised: the same with W the window in use, so that a grown window is stretched over the old range
    (timm with pretrained window 0); linear: u, for comparison only (paper Table 1).
    """
    reference = window if kind == "log_renormalised" else pretrained_window
    axes = []
    for size, unit in zip(window, reference, strict=True):
        offset = torch.arange(-(size - 1), size, dtype=torch.float32, device=device) / max(unit - 1, 1)
        if kind != "linear":
            offset = offset.sign() * torch.log2((offset * 8).abs() + 1.0) / math.log2(8)
        axes.append(offset)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def relative_position_index(window: Pair, device: torch.device | None = None) -> Tensor:
    """For each query and key of a window, the row of their offset in the coordinates, (N, N) of int64."""
    height, width = window
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    offset_rows = rows[:, None] - rows[None, :] + height - 1
    offset_columns = columns[:, None] - columns[None, :] + width - 1
    return offset_rows * (2 * width - 1) + offset_columns


def spread_bias(table_Lh: Tensor, index_NN: Tensor) -> Tensor:
    """MLP output per offset -> additive bias 16 sigmoid(x) - 8 per pair of tokens: (L, h), (N, N) -> (h, N, N).

    The official code has no -8. Softmax does not see it, and bf16 does: near 0, where training starts, it resolves the
    bias far better than near 8, where its step is 1/32. The sigmoid comes before the gather: it then works on L rather
    than N * N elements.
    """
    N = index_NN.shape[0]
    bias_hL = (16 * torch.sigmoid(table_Lh) - 8).t()
    return bias_hL.index_select(1, index_NN.flatten()).view(-1, N, N)
