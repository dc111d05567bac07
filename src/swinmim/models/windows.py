"""Which window every stage uses, and the cutting of a token grid into windows.

Shapes: B batch, H W grid, C channels, w windows of one grid, N tokens of one window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from swinmim.models.errors import ModelError

Pair = tuple[int, int]


@dataclass(frozen=True)
class StageWindow:
    """Token grid, attention window and cyclic shift of one stage, each (height, width) in tokens.

    On an axis where the wished window covers the grid, the window is the grid and the shift is 0 (the official code
    decides this for both axes at once, timm per axis; they agree on square grids).
    """

    grid: Pair
    window: Pair
    shift: Pair

    @property
    def is_global(self) -> bool:
        """One window covers the grid: nothing to roll, cut or mask."""
        return self.grid == self.window

    @property
    def padded(self) -> Pair:
        """The grid up to whole windows; equal to `grid` unless the stage was made with `pad`."""
        (H, W), (wh, ww) = self.grid, self.window
        return H + -H % wh, W + -W % ww

    @property
    def num_windows(self) -> int:
        return (self.padded[0] // self.window[0]) * (self.padded[1] // self.window[1])


def as_pair(value: int | Sequence[int]) -> Pair:
    """An int for both axes, or (height, width). Raises ModelError for anything else."""
    if isinstance(value, int):
        return value, value
    if isinstance(value, Sequence) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    raise ModelError(f"A size is one integer or a (height, width) pair of integers; got {value!r}.")


def stage_windows(
    resolution: int | Sequence[int],
    *,
    patch_size: int,
    num_stages: int,
    window_ratio: int,
    window: int | Sequence[int] | None = None,
    pad: bool = False,
) -> tuple[StageWindow, ...]:
    """Grid, window and shift of every stage at `resolution` (pixels).

    The window is resolution / window_ratio on each axis (192 / 16 = 12) unless `window` (tokens) is given. Legal is a
    resolution at which each stage's grid is whole and a multiple of its window. Raises ModelError with the table of
    stages and the nearest legal resolutions otherwise.

    pad: every resolution is legal; grids and the window are rounded up, see `StageWindow.padded`. Nothing changes for
    a resolution that fits.
    """
    size = as_pair(resolution)
    if min(size) < 1:
        raise ModelError(f"A resolution is at least 1 pixel on each axis; got {_show(size)}.")
    wished = (None, None) if window is None else as_pair(window)
    if window is not None and min(as_pair(window)) < 1:
        raise ModelError(f"A window is at least 1 token on each axis; got {_show(as_pair(window))}.")
    axes = [_Axis(patch_size, num_stages, window_ratio, w) for w in wished]
    if not pad and any(axis.problem(s) for axis, s in zip(axes, size, strict=True)):
        raise ModelError(_misfit(size, axes))
    grids, windows = ([axis.rows(s)[i] for axis, s in zip(axes, size, strict=True)] for i in (0, 1))
    stages = []
    for s in range(num_stages):
        grid = math.ceil(grids[0][s]), math.ceil(grids[1][s])
        win = math.ceil(windows[0][s]), math.ceil(windows[1][s])
        shift = (0 if win[0] == grid[0] else win[0] // 2, 0 if win[1] == grid[1] else win[1] // 2)
        stages.append(StageWindow(grid, win, shift))
    return tuple(stages)


@dataclass(frozen=True)
class _Axis:
    """The rule on one axis; height and width are judged apart."""

    patch_size: int
    num_stages: int
    window_ratio: int
    window: int | None

    def rows(self, size: int) -> tuple[list[Fraction], list[Fraction]]:
        """Grid and window of each stage, whole or not."""
        grids = [Fraction(size, self.patch_size * 2**s) for s in range(self.num_stages)]
        wished = Fraction(size, self.window_ratio) if self.window is None else Fraction(self.window)
        return grids, [min(wished, grid) for grid in grids]

    def problem(self, size: int) -> str | None:
        stride = self.patch_size * 2 ** (self.num_stages - 1)
        if size % stride:
            return f"{size} px is not a multiple of {stride}, the stride of the last stage"
        grids, windows = self.rows(size)
        for s, (grid, win) in enumerate(zip(grids, windows, strict=True), start=1):
            if win.denominator != 1:
                return f"{size} px / {self.window_ratio} is not a whole window"
            if (grid / win).denominator != 1:
                return f"the grid of stage {s} ({grid}) is not a multiple of its window ({win})"
        return None

    def nearest(self, size: int) -> list[int]:
        """The legal sizes just below and just above (one of them where the other does not exist)."""
        if self.problem(size) is None:
            return [size]
        stride = self.patch_size * 2 ** (self.num_stages - 1)
        # One period of the rule: beyond it nothing new happens.
        period = math.lcm(stride, self.window_ratio, (self.window or 1) * stride)
        down = range(size - size % stride, 0, -stride)
        up = range(size - size % stride + stride, size + period + stride, stride)
        candidates = (next((s for s in side if self.problem(s) is None), None) for side in (down, up))
        return [s for s in candidates if s is not None]


def _misfit(size: Pair, axes: Sequence[_Axis]) -> str:
    problems = [axis.problem(s) for axis, s in zip(axes, size, strict=True)]
    if problems[0] == problems[1]:
        reasons = f"{problems[0]}"
    else:
        reasons = "; ".join(f"{n}: {p}" for n, p in zip(("height", "width"), problems, strict=True) if p)
    near = [axis.nearest(s) for axis, s in zip(axes, size, strict=True)]
    legal = (
        " and ".join(dict.fromkeys(_show((near[0][i], near[1][i])) for i in (0, -1)))
        if all(near)
        else f"none with window ratio {axes[0].window_ratio} and patch size {axes[0].patch_size}"
    )
    (grids_h, wins_h), (grids_w, wins_w) = (axis.rows(s) for axis, s in zip(axes, size, strict=True))
    rows = [
        ("stage", "grid", "window", "shift"),
        *(
            (f"{s + 1}", _show((grids_h[s], grids_w[s])), _show((wins_h[s], wins_w[s])), "-")
            for s in range(axes[0].num_stages)
        ),
    ]
    table = "\n".join("  " + "".join(f"{cell:<10}" for cell in row).rstrip() for row in rows)
    asked = "resolution / " + str(axes[0].window_ratio) if axes[0].window is None else "the given window"
    return (
        f"Resolution {_show(size)} does not fit: every stage needs a whole grid that is a multiple of its window "
        f"({asked}, at most the grid).\n  {reasons}\n{table}\n"
        f"Nearest legal resolutions: {legal}."
    )


def _show(pair: tuple[int | Fraction, int | Fraction]) -> str:
    height, width = (f"{float(v):.4g}" if isinstance(v, Fraction) and v.denominator != 1 else str(v) for v in pair)
    return height if height == width else f"{height}x{width}"


def partition_windows(tokens_BHWC: Tensor, window: Pair) -> Tensor:
    """Cut a grid into windows: (B, H, W, C) -> (B * w, N, C), windows row by row."""
    B, H, W, C = tokens_BHWC.shape
    wh, ww = window
    tiles = tokens_BHWC.view(B, H // wh, wh, W // ww, ww, C).transpose(2, 3)
    return tiles.reshape(-1, wh * ww, C)


def merge_windows(windows_BwNC: Tensor, window: Pair, grid: Pair) -> Tensor:
    """The inverse of `partition_windows`: (B * w, N, C) -> (B, H, W, C)."""
    (H, W), (wh, ww) = grid, window
    C = windows_BwNC.shape[-1]
    tiles = windows_BwNC.view(-1, H // wh, W // ww, wh, ww, C).transpose(2, 3)
    return tiles.reshape(-1, H, W, C)


def shift_regions(stage: StageWindow, device: torch.device | None = None) -> Tensor:
    """Region number of each token after the cyclic shift, (w, N): tokens attend only within their own region.

    A shifted grid brings its first rows and columns beside its last ones; those were never neighbours.
    """
    regions = []
    for size, window, shift in zip(stage.padded, stage.window, stage.shift, strict=True):
        position = torch.arange(size, device=device)
        wrapped = (position >= size - window).long() + (position >= size - shift).long()
        regions.append(wrapped if shift else torch.zeros_like(position))
    region_HW = regions[0][:, None] * 3 + regions[1][None, :]
    return partition_windows(region_HW[None, :, :, None], stage.window)[..., 0]


def shifted_order(stage: StageWindow, device: torch.device | None = None) -> Tensor:
    """Places on the padded grid in the order of the shifted windows, (P,) int64: the roll and the cut in one gather."""
    (H, W), (dy, dx) = stage.padded, stage.shift
    place_HW = torch.arange(H * W, device=device).view(H, W).roll((-dy, -dx), dims=(0, 1))
    return partition_windows(place_HW[None, :, :, None], stage.window).flatten()


def padding_places(stage: StageWindow, *, shifted: bool, device: torch.device | None = None) -> Tensor:
    """Which tokens of each window are padding, (w, N) bool."""
    (H, W), (dy, dx) = stage.padded, stage.shift if shifted else (0, 0)
    rows = torch.arange(H, device=device) >= stage.grid[0]
    columns = torch.arange(W, device=device) >= stage.grid[1]
    padding_HW = (rows[:, None] | columns[None, :]).roll((-dy, -dx), dims=(0, 1))
    return partition_windows(padding_HW[None, :, :, None], stage.window)[..., 0]


def reorder(tokens_BPC: Tensor, order_P: Tensor, inverse_P: Tensor) -> Tensor:
    """Token i of the result is token order[i]: (B, P, C) -> (B, P, C). Either way it is one gather, no scatter."""
    return cast(Tensor, _Reorder.apply(tokens_BPC, order_P, inverse_P))


class _Reorder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens_BPC: Tensor, order_P: Tensor, inverse_P: Tensor) -> Tensor:
        ctx.save_for_backward(order_P, inverse_P)
        return tokens_BPC.index_select(1, order_P)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        order_P, inverse_P = ctx.saved_tensors
        return reorder(grads[0], inverse_P, order_P), None, None


class WindowTables(NamedTuple):
    """What the blocks of a stage need to know of their windows."""

    coords_L2: Tensor
    """Of each relative offset, see `relative_coords`."""
    index_NN: Tensor
    """Offset of each pair of tokens, see `relative_position_index`."""
    padding_wN: Tensor | None
    """See `padding_places`; only where the grid is padded."""
    regions_wN: Tensor | None = None
    """See `shift_regions`; this and the rest only where the windows are shifted."""
    order_P: Tensor | None = None
    """See `shifted_order`."""
    inverse_P: Tensor | None = None
