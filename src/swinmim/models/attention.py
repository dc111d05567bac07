"""Cosine window attention with a continuous relative position bias (Swin V2 paper sections 3.2 and 3.3).

Shapes: B batch times windows, w windows of one grid, N tokens of one window, C channels, h heads, d channels of a head,
L relative offsets. Parameter names are timm's.

One interface, three cores: (qkv_BN3hd, scale_h11, bias_hNN, regions_wN, padding_wN) -> out_BNhd. `reference` is the
formula, word for word; `sdpa` is torch's fused kernel on a GPU; `chunked` (chunked_attention.py) keeps no N x N tensor
anywhere. Tokens of different regions, if there are any, do not attend to each other, and none attends to padding.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from swinmim.models.choices import Attention
from swinmim.models.chunked_attention import MASKED_LOGIT, NORM_EPS, PADDING_LOGIT, attend_chunked
from swinmim.models.position_bias import spread_bias
from swinmim.models.windows import WindowTables

MAX_LOGIT_SCALE = math.log(100.0)  # the temperature stays above 0.01
CPB_HIDDEN = 512  # from the official code; the paper gives no width

# Of the kernels that take a bias, only these two give it a gradient. cuDNN's, which torch prefers on Hopper when the
# bias needs none, misreads a mask of another dtype and can return NaN for 64 or 576 tokens (pytorch issues 191612,
# 196678).
SDPA_BACKENDS = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class WindowAttention(nn.Module):
    """Self-attention inside windows, (B, N, C) -> (B, N, C).

    Whatever the dtype of the weights or of autocast, these run in fp32: normalising q and k, the logit scale, the
    position bias MLP, and the softmax. Half precision there costs up to 1.2 in a logit.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.core: Attention = "auto"
        self.chunk: int | None = None
        self.logit_scale = nn.Parameter(torch.empty(num_heads, 1, 1))
        self.cpb_mlp = nn.Sequential(nn.Linear(2, CPB_HIDDEN), nn.ReLU(), nn.Linear(CPB_HIDDEN, num_heads, bias=False))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.empty(dim))
        self.v_bias = nn.Parameter(torch.empty(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens_BNC: Tensor, tables: WindowTables) -> Tensor:
        B, N, C = tokens_BNC.shape
        # A key bias would add the same amount to all logits of a query: there is none.
        qkv_bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv_BN3hd = F.linear(tokens_BNC, self.qkv.weight, qkv_bias).view(B, N, 3, self.num_heads, -1)
        scale_h11 = _wide(self.logit_scale).clamp(max=MAX_LOGIT_SCALE).exp()
        bias_hNN = self.position_bias(tables)
        masks = tables.regions_wN, tables.padding_wN
        match choose_core(self.core, self.chunk, tokens_BNC.device):
            case "chunked":
                out_BNhd = attend_chunked(qkv_BN3hd, scale_h11, bias_hNN, *masks, chunk=self.chunk)
            case "sdpa":
                out_BNhd = attend_sdpa(qkv_BN3hd, scale_h11, bias_hNN, *masks)
            case _:
                out_BNhd = attend_reference(qkv_BN3hd, scale_h11, bias_hNN, *masks)
        out: Tensor = self.proj(out_BNhd.reshape(B, N, C))
        return out

    def position_bias(self, tables: WindowTables) -> Tensor:
        """Additive bias of one window, (h, N, N) in fp32, see `spread_bias`."""
        first, last = cast(nn.Linear, self.cpb_mlp[0]), cast(nn.Linear, self.cpb_mlp[2])
        with full_precision(tables.coords_L2.device.type):
            weight, bias = _wide(first.weight), _wide(first.bias)
            hidden = F.relu(F.linear(tables.coords_L2.to(weight.dtype), weight, bias))
            return spread_bias(F.linear(hidden, _wide(last.weight)), tables.index_NN)


def choose_core(asked: Attention, chunk: int | None, device: torch.device) -> Attention:
    """The core that `auto` stands for: where a chunk is asked for, and on a CPU, chunked; on a GPU sdpa.

    On a CPU torch's fused attention falls back to N x N maths once the bias is trained, and chunks that stay in the
    cache beat both it and the literal core (benchmarks/).
    """
    if asked != "auto":
        return asked
    if chunk is not None or device.type == "cpu":
        return "chunked"
    return "sdpa" if device.type == "cuda" else "reference"


def attend_reference(
    qkv_BN3hd: Tensor,
    scale_h11: Tensor,
    bias_hNN: Tensor,
    regions_wN: Tensor | None = None,
    padding_wN: Tensor | None = None,
) -> Tensor:
    """softmax(cosine(q, k) * scale + bias [+ mask]) v, literally: (B, N, 3, h, d) -> (B, N, h, d)."""
    q_BhNd, k_BhNd, v_BhNd = qkv_BN3hd.permute(2, 0, 3, 1, 4).unbind(0)
    # eps 1e-6 and not 1e-12: a zero vector then has a finite gradient; real norms are far above either.
    q, k = (F.normalize(_wide(t), dim=-1, eps=NORM_EPS).to(v_BhNd.dtype) for t in (q_BhNd, k_BhNd))
    logits_BhNN = _wide(q @ k.transpose(-2, -1)) * scale_h11 + bias_hNN
    mask_w1NN = _window_mask(regions_wN, padding_wN, logits_BhNN.dtype)
    if mask_w1NN is not None:
        logits_BwhNN = logits_BhNN.view(-1, len(mask_w1NN), *logits_BhNN.shape[1:])
        logits_BhNN = (logits_BwhNN + mask_w1NN).flatten(0, 1)
    return (logits_BhNN.softmax(dim=-1).to(v_BhNd.dtype) @ v_BhNd).transpose(1, 2)


def attend_sdpa(
    qkv_BN3hd: Tensor,
    scale_h11: Tensor,
    bias_hNN: Tensor,
    regions_wN: Tensor | None = None,
    padding_wN: Tensor | None = None,
) -> Tensor:
    """The same through scaled_dot_product_attention, the logit scale folded into q and the bias shared by all windows.

    Where there is a mask, the windows of a grid count as further heads, so that it needs no copy per sample.
    """
    q, k, v = qkv_BN3hd.permute(2, 0, 3, 1, 4).unbind(0)
    B, h, N, d = q.shape
    q = (F.normalize(_wide(q), dim=-1, eps=NORM_EPS) * scale_h11).to(v.dtype)
    k = F.normalize(_wide(k), dim=-1, eps=NORM_EPS).to(v.dtype)
    bias_1gNN = bias_hNN.unsqueeze(0)
    mask_w1NN = _window_mask(regions_wN, padding_wN, bias_hNN.dtype)
    if mask_w1NN is not None:
        w = len(mask_w1NN)
        bias_1gNN = (bias_1gNN + mask_w1NN).flatten(0, 1).unsqueeze(0)
        q, k, v = (t.reshape(B // w, w * h, N, d) for t in (q, k, v))
    # The kernel misreads a bias of another dtype than q, and autocast, which would convert it, may be off.
    with sdpa_kernel(SDPA_BACKENDS):
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias_1gNN.to(q.dtype), scale=1.0)
    return out.reshape(B, h, N, d).transpose(1, 2)


def _window_mask(regions_wN: Tensor | None, padding_wN: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """(w, 1, N, N) or (w, 1, 1, N): MASKED_LOGIT between tokens of other regions and PADDING_LOGIT on padded keys."""
    mask_wNN = None if padding_wN is None else padding_wN.to(dtype).mul(PADDING_LOGIT)[:, None, :]
    if regions_wN is not None:
        apart_wNN = (regions_wN[:, :, None] != regions_wN[:, None, :]).to(dtype).mul(MASKED_LOGIT)
        mask_wNN = apart_wNN if mask_wNN is None else mask_wNN + apart_wNN
    return None if mask_wNN is None else mask_wNN.unsqueeze(1)


def full_precision(device_type: str) -> AbstractContextManager[object]:
    """Leave autocast."""
    return torch.autocast(device_type, enabled=False) if under_autocast(device_type) else nullcontext()


def under_autocast(device_type: str) -> bool:
    # The meta device has none.
    return torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)


def _wide(tensor: Tensor) -> Tensor:
    """At least fp32; fp64 stays."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
