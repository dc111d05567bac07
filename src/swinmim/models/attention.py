"""Cosine window attention with a continuous relative position bias (Swin V2 paper sections 3.2 and 3.3).

Shapes: B batch times windows, w windows of one grid, N tokens of one window, C channels, h heads, d channels of a head,
L relative offsets. Parameter names are timm's.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinmim.models.position_bias import spread_bias

MAX_LOGIT_SCALE = math.log(100.0)  # the temperature stays above 0.01
MASKED_LOGIT = -100.0  # finite, as in the official code
CPB_HIDDEN = 512  # from the official code; the paper gives no width


class WindowAttention(nn.Module):
    """Self-attention inside windows, (B, N, C) -> (B, N, C).

    Whatever the dtype of the weights or of autocast, these run in fp32: normalising q and k, the logit scale, the
    position bias MLP, and the softmax. Half precision there costs up to 1.2 in a logit.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.logit_scale = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, CPB_HIDDEN), nn.ReLU(), nn.Linear(CPB_HIDDEN, num_heads, bias=False))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.empty(dim))
        self.v_bias = nn.Parameter(torch.empty(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_BNC: Tensor, coords_L2: Tensor, index_NN: Tensor, regions_wN: Tensor | None) -> Tensor:
        B, N, C = tokens_BNC.shape
        # A key bias would add the same amount to all logits of a query: there is none.
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(tokens_BNC, self.qkv.weight, qkv_bias)
        q_BhNd, k_BhNd, v_BhNd = qkv.view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scale_h11 = _wide(self.logit_scale).clamp(max=MAX_LOGIT_SCALE).exp()
        bias_hNN = self.position_bias(coords_L2, index_NN)
        out_BhNd = attend(q_BhNd, k_BhNd, v_BhNd, scale_h11, bias_hNN, regions_wN)
        out: Tensor = self.proj(out_BhNd.transpose(1, 2).reshape(B, N, C))
        return out

    def position_bias(self, coords_L2: Tensor, index_NN: Tensor) -> Tensor:
        """Additive bias of one window, (h, N, N) in fp32, from the coordinates of its L offsets."""
        first, last = cast(nn.Linear, self.cpb_mlp[0]), cast(nn.Linear, self.cpb_mlp[2])
        with _full_precision(coords_L2.device.type):
            weight, bias = _wide(first.weight), _wide(first.bias)
            hidden = F.relu(F.linear(coords_L2.to(weight.dtype), weight, bias))
            return spread_bias(F.linear(hidden, _wide(last.weight)), index_NN)


def attend(
    q_BhNd: Tensor, k_BhNd: Tensor, v_BhNd: Tensor, scale_h11: Tensor, bias_hNN: Tensor, regions_wN: Tensor | None
) -> Tensor:
    """softmax(cosine(q, k) * scale + bias [+ shift mask]) v, literally: (B, h, N, d) -> (B, h, N, d)."""
    # eps 1e-6 and not 1e-12: a zero vector then has a finite gradient; real norms are far above either.
    q, k = (F.normalize(_wide(t), dim=-1, eps=1e-6).to(v_BhNd.dtype) for t in (q_BhNd, k_BhNd))
    logits_BhNN = _wide(q @ k.transpose(-2, -1)) * scale_h11 + bias_hNN
    if regions_wN is not None:
        apart_wNN = regions_wN[:, :, None] != regions_wN[:, None, :]
        mask_w1NN = apart_wNN.to(logits_BhNN.dtype).mul(MASKED_LOGIT).unsqueeze(1)
        B, h, N, _ = logits_BhNN.shape
        w = regions_wN.shape[0]
        logits_BhNN = (logits_BhNN.view(B // w, w, h, N, N) + mask_w1NN).view(B, h, N, N)
    return logits_BhNN.softmax(dim=-1).to(v_BhNd.dtype) @ v_BhNd


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()  # the meta device


def _wide(tensor: Tensor) -> Tensor:
    """At least fp32; fp64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
