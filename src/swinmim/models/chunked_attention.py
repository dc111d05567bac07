"""Exact window attention that keeps no N x N tensor: a few windows at a time, forward and backward.

Only q, k, v stay for the backward pass, which computes the softmax again; the bias gradient adds up in one (h, N, N).
It is the portable answer to the paper's sequential self-attention (section 3.5), and on a CPU the fastest core, because
the logits of a chunk stay in the cache. A custom operator, so that torch.compile and selective recomputation see one
node instead of an unrolled loop.

Shapes: B batch times windows, n windows of a chunk, w windows of one grid, N tokens of one window, h heads, d channels
of a head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

MASKED_LOGIT = -100.0  # between regions: as in the official code, so that a saturated logit can overcome it
PADDING_LOGIT = -1e4  # nothing overcomes it, its weight is 0, and a row of nothing else has no NaN
NORM_EPS = 1e-6
NEGLIGIBLE = 1e-30  # an attention weight

# Logits of a chunk. On a CPU two such buffers in fp32 should stay near the core; elsewhere, launches should be few.
CACHED_LOGITS = 2**19
LOGITS_AT_ONCE = 2**26

_SOFTMAX_BACKWARD = torch.ops.aten._softmax_backward_data.out


def attend_chunked(
    qkv_BN3hd: Tensor,
    scale_h11: Tensor,
    bias_hNN: Tensor,
    regions_wN: Tensor | None = None,
    padding_wN: Tensor | None = None,
    *,
    chunk: int | None = None,
) -> Tensor:
    """Cosine attention, (B, N, 3, h, d) -> (B, N, h, d), `chunk` windows at a time (None: what suits the device).

    Gradients for qkv, scale and bias; no second derivatives. On a CPU all products are fp32 (or fp64) whatever the
    dtype of qkv: in the cache that costs no more than bf16, and is more accurate.
    """
    if chunk is None:
        at_once = CACHED_LOGITS if qkv_BN3hd.device.type == "cpu" else LOGITS_AT_ONCE
        chunk = max(1, at_once // bias_hNN.numel())
    return cast(Tensor, _attend(qkv_BN3hd, scale_h11, bias_hNN, regions_wN, padding_wN, chunk))


@torch.library.custom_op("swinmim::chunked_attention", mutates_args=())
def _attend(
    qkv_BN3hd: Tensor,
    scale_h11: Tensor,
    bias_hNN: Tensor,
    regions_wN: Tensor | None,
    padding_wN: Tensor | None,
    chunk: int,
) -> Tensor:
    B, N, _, h, d = qkv_BN3hd.shape
    out_BNhd = qkv_BN3hd.new_empty(B, N, h, d)
    with torch.autocast(qkv_BN3hd.device.type, enabled=False):
        room = _room(qkv_BN3hd, chunk)
        for part, masks in _chunks(B, chunk, regions_wN, padding_wN):
            q, k, v, _, _ = _unit_qkv(qkv_BN3hd[part], scale_h11)
            weights = _softmax(q, k, bias_hNN, masks, room[: len(q)])
            out_BNhd[part].copy_((weights.to(v.dtype) @ v).view(-1, h, N, d).transpose(1, 2))
    return out_BNhd


@torch.library.custom_op("swinmim::chunked_attention_backward", mutates_args=())
def _attend_backward(
    grad_BNhd: Tensor,
    qkv_BN3hd: Tensor,
    scale_h11: Tensor,
    bias_hNN: Tensor,
    regions_wN: Tensor | None,
    padding_wN: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    B, N, _, h, _ = qkv_BN3hd.shape
    grad_qkv = torch.empty_like(qkv_BN3hd, memory_format=torch.contiguous_format)
    grad_scale, grad_bias = torch.zeros_like(scale_h11), torch.zeros_like(bias_hNN)
    with torch.autocast(qkv_BN3hd.device.type, enabled=False):
        room, more_room = _room(qkv_BN3hd, chunk), _room(qkv_BN3hd, chunk)
        for part, masks in _chunks(B, chunk, regions_wN, padding_wN):
            q, k, v, unit_2nhNd, inverse_norms = _unit_qkv(qkv_BN3hd[part], scale_h11)
            weights = _softmax(q, k, bias_hNN, masks, room[: len(q)])
            grad = grad_BNhd[part].transpose(1, 2).to(v.dtype).reshape(v.shape)
            grads_3nhNd = unit_2nhNd.new_empty(3, *unit_2nhNd.shape[1:], dtype=v.dtype)
            grad_q, grad_k, grad_v = (g.flatten(0, 1) for g in grads_3nhNd)
            torch.bmm(weights.to(v.dtype).transpose(1, 2), grad, out=grad_v)
            grad_weights = torch.bmm(grad, v.transpose(1, 2), out=more_room[: len(q)]).to(weights.dtype)
            grad_logits = _SOFTMAX_BACKWARD(grad_weights, weights, -1, weights.dtype, grad_input=grad_weights)
            grad_bias += grad_logits.view(-1, h, N, N).sum(0)
            grad_logits = grad_logits.to(v.dtype)
            torch.bmm(grad_logits, k, out=grad_q)
            torch.bmm(grad_logits.transpose(1, 2), q, out=grad_k)

            wide_2nhNd = grads_3nhNd[:2].to(unit_2nhNd.dtype)
            along = (wide_2nhNd * unit_2nhNd).sum(-1, keepdim=True)
            grad_scale += along[0].sum((0, 2)).unsqueeze(-1)
            wide_2nhNd[0] *= scale_h11
            along[0] *= scale_h11
            # Through x / max(|x|, eps): below eps there is nothing to project out.
            along *= inverse_norms < 1 / NORM_EPS
            wide_2nhNd.addcmul_(along, unit_2nhNd, value=-1).mul_(inverse_norms)
            grad_qkv[part][:, :, :2].copy_(wide_2nhNd.permute(1, 3, 0, 2, 4))
            grad_qkv[part][:, :, 2].copy_(grads_3nhNd[2].transpose(1, 2))
    return grad_qkv, grad_scale, grad_bias


Masks = list[tuple[Tensor, float]]


def _chunks(B: int, chunk: int, regions_wN: Tensor | None, padding_wN: Tensor | None) -> Iterator[tuple[slice, Masks]]:
    """Slices of the windows, each with its masks: where, (n, 1, N or 1, N) bool, and the logit to add there."""
    for start in range(0, B, chunk):
        stop = min(start + chunk, B)
        masks: Masks = []
        if regions_wN is not None:
            regions_nN = regions_wN[torch.arange(start, stop, device=regions_wN.device) % len(regions_wN)]
            masks.append(((regions_nN[:, :, None] != regions_nN[:, None, :]).unsqueeze(1), MASKED_LOGIT))
        if padding_wN is not None:
            padding_nN = padding_wN[torch.arange(start, stop, device=padding_wN.device) % len(padding_wN)]
            masks.append((padding_nN[:, None, None, :], PADDING_LOGIT))
        yield slice(start, stop), masks


def _unit_qkv(qkv_nN3hd: Tensor, scale_h11: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """q times the scale, k and v as operands of the products, each (n * h, N, d); unit q and k and 1 / norm."""
    wide = torch.promote_types(qkv_nN3hd.dtype, torch.float32)
    operand = _operand(qkv_nN3hd)
    qkv_3nhNd = qkv_nN3hd.permute(2, 0, 3, 1, 4)
    unit_2nhNd = qkv_3nhNd[:2].to(wide, memory_format=torch.contiguous_format, copy=True)
    inverse_norms = torch.linalg.vector_norm(unit_2nhNd, dim=-1, keepdim=True).clamp_min_(NORM_EPS).reciprocal_()
    unit_2nhNd *= inverse_norms
    q, k = (unit_2nhNd[0] * scale_h11).to(operand), unit_2nhNd[1].to(operand)
    v = qkv_3nhNd[2].to(operand, memory_format=torch.contiguous_format)
    return q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), unit_2nhNd, inverse_norms


def _room(qkv_BN3hd: Tensor, chunk: int) -> Tensor:
    """Where the logits of chunk after chunk go, (chunk * h, N, N): fresh memory each time costs 7 % on a CPU."""
    B, N, _, h, _ = qkv_BN3hd.shape
    return qkv_BN3hd.new_empty(min(chunk, B) * h, N, N, dtype=_operand(qkv_BN3hd))


def _operand(qkv: Tensor) -> torch.dtype:
    return torch.promote_types(qkv.dtype, torch.float32) if qkv.device.type == "cpu" else qkv.dtype


def _softmax(q: Tensor, k: Tensor, bias_hNN: Tensor, masks: Masks, room: Tensor) -> Tensor:
    """Attention weights of a chunk, (n * h, N, N), at least fp32; in `room` if that is wide enough."""
    h, N, _ = bias_hNN.shape
    logits = torch.bmm(q, k.transpose(1, 2), out=room).to(bias_hNN.dtype)
    logits_nhNN = logits.view(-1, h, N, N)
    logits_nhNN += bias_hNN
    for where_n1NN, logit in masks:
        logits_nhNN.add_(where_n1NN, alpha=logit)
    weights = torch.softmax(logits, -1, out=logits)
    # exp(-100) behind the mask is a subnormal number in fp32, with which a CPU multiplies many times slower.
    return torch.threshold_(weights, NEGLIGIBLE, 0.0) if weights.device.type == "cpu" else weights


@_attend.register_fake
def _(qkv_BN3hd: Tensor, *rest: Any) -> Tensor:
    B, N, _, h, d = qkv_BN3hd.shape
    return qkv_BN3hd.new_empty(B, N, h, d)


@_attend_backward.register_fake
def _(grad_BNhd: Tensor, qkv_BN3hd: Tensor, scale_h11: Tensor, bias_hNN: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return (
        torch.empty_like(qkv_BN3hd, memory_format=torch.contiguous_format),
        torch.empty_like(scale_h11),
        torch.empty_like(bias_hNN),
    )


@register_flop_formula(torch.ops.swinmim.chunked_attention, get_raw=False)
def _flops(qkv_shape: Sequence[int], *rest: Any, **shapes: Any) -> int:
    """q k^T and weights v."""
    B, N, _, h, d = qkv_shape
    return 2 * 2 * B * h * N * N * d


@register_flop_formula(torch.ops.swinmim.chunked_attention_backward, get_raw=False)
def _flops_backward(grad_shape: Sequence[int], qkv_shape: Sequence[int], *rest: Any, **shapes: Any) -> int:
    """q k^T again, and the gradients of v, weights, q and k."""
    B, N, _, h, d = qkv_shape
    return 5 * 2 * B * h * N * N * d


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.chunk = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx: Any, grad_BNhd: Tensor) -> tuple[Tensor | None, ...]:
    return (*_attend_backward(grad_BNhd, *ctx.saved_tensors, ctx.chunk), None, None, None)


_attend.register_autograd(_differentiate, setup_context=_save)
