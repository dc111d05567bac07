"""SwinV2, the encoder (arXiv 2111.09883), with the parameter names of timm's SwinTransformerV2.

Shapes: B batch, H W grid of tokens (or pixels of images), C channels, N tokens of one window, w windows of one grid,
L relative offsets of one window.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinmim.models.architecture import ARCHITECTURES, Architecture, get_architecture
from swinmim.models.attention import WindowAttention, under_autocast
from swinmim.models.choices import ATTENTIONS, RECOMPUTES, Attention, Recompute
from swinmim.models.compiled import Compiled
from swinmim.models.errors import ModelError
from swinmim.models.init import init_weights
from swinmim.models.position_bias import POSITION_BIASES, PositionBias, relative_coords, relative_position_index
from swinmim.models.recompute import run
from swinmim.models.windows import (
    Pair,
    StageWindow,
    WindowTables,
    as_pair,
    merge_windows,
    padding_places,
    partition_windows,
    reorder,
    shift_regions,
    shifted_order,
    stage_windows,
)

__all__ = ["ARCHITECTURES", "Architecture", "SwinV2", "create_encoder", "get_architecture", "num_parameters"]


class SwinV2(nn.Module):
    """The encoder: images (B, in_chans, H, W) -> a map of tokens per stage.

    resolution: image height and width in pixels, one int or (H, W); it sets the windows (`stage_windows`).
    window: tokens, instead of resolution / architecture.window_ratio.
    pad: take a resolution or window that does not fit, for dense tasks, see `resize`.
    pretrained_windows: per stage, the window that the position bias was trained with; its coordinates keep that unit
        when `resize` grows the window. Default: the windows of this resolution.
    position_bias: see `relative_coords`.
    drop_path: stochastic depth, rising linearly from 0 at the first block to this rate at the last.
    recompute: activation checkpointing, see `Recompute`; one value, or one per stage.
    attention: the core of window attention, see `choose_core`.
    chunk: windows at a time, for the chunked core; one number, or one per stage with 0 for no wish of its own.

    Raises ModelError for a size that does not fit (with the nearest that do) and for unknown options.
    """

    origin: object = None
    """The manifest of the folder that it was loaded from, with the normalisation that it knows; else None."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        resolution: int | Sequence[int] = 192,
        window: int | Sequence[int] | None = None,
        pad: bool = False,
        pretrained_windows: Sequence[int | Sequence[int]] | None = None,
        position_bias: PositionBias = "log",
        drop_path: float = 0.0,
        recompute: Recompute | Sequence[Recompute] = "none",
        attention: Attention = "auto",
        chunk: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        _check_choice("position_bias", position_bias, POSITION_BIASES)
        _check_choice("attention", attention, ATTENTIONS)
        if not 0.0 <= drop_path < 1.0:
            raise ModelError(f"drop_path is a rate from 0 up to, not including, 1; got {drop_path}.")
        self.architecture = architecture
        self.resolution, self.stages = _fit(architecture, resolution, window, pad)
        self.pretrained_windows = _pretrained_windows(pretrained_windows, self.stages)
        self.position_bias: PositionBias = position_bias
        self.drop_path = drop_path
        self.recompute = _recompute(recompute, architecture.num_stages)
        self.attention: Attention = attention
        self.chunks = _chunks(chunk, attention, architecture.num_stages)

        self.patch_embed = PatchEmbed(architecture)
        rates = iter(torch.linspace(0, drop_path, sum(architecture.depths), device="cpu").tolist())
        self.layers = nn.ModuleList(
            Stage(architecture, s, [next(rates) for _ in range(depth)]) for s, depth in enumerate(architecture.depths)
        )
        for stage, stage_chunk in zip(self.layers, self.chunks, strict=True):
            for block in cast(Stage, stage).blocks:
                cast(Block, block).attn.core, cast(Block, block).attn.chunk = attention, stage_chunk
        self.norm = nn.LayerNorm(architecture.num_features)
        self._set_windows()
        self.reset_parameters()

    @property
    def in_chans(self) -> int:
        return self.architecture.in_chans

    @property
    def num_features(self) -> int:
        """Channels of the last stage."""
        return self.architecture.num_features

    @property
    def stride(self) -> int:
        """Pixels per token side of the last stage."""
        return self.architecture.stride

    def reset_parameters(self) -> None:
        """Draw all weights anew (see `init_weights`); does nothing on the meta device."""
        if not self.norm.weight.is_meta:
            init_weights(self)

    def materialise(self, device: torch.device | str = "cpu") -> SwinV2:
        """Give a model built under torch.device("meta") its memory, in place, and draw its weights there.

        Parameter by parameter and without a copy: the peak is the model itself (12 GB for G), on `device` alone. The
        tables of the windows are computed anew. Returns the model.
        """
        self.to_empty(device=device)
        self.reset_parameters()
        return self

    def resize(
        self, resolution: int | Sequence[int], window: int | Sequence[int] | None = None, *, pad: bool = False
    ) -> None:
        """Take images of another resolution from now on, in place. No weight changes.

        The windows follow the resolution (or `window`); `pretrained_windows` stays, so that the bias at offsets the
        old window had is unchanged and larger offsets extrapolate (paper section 3.3). Raises ModelError, leaving the
        model as it was, for a size that does not fit.

        pad: no size is refused, for dense tasks. Zeros below and to the right fill the image up to whole patches, a
        grid up to whole windows in each block (before the roll), and up to an even number of tokens before merging, as
        in microsoft/Swin-Transformer's dense models. Unlike there no token attends to the padding, so that it changes
        nothing but the time. timm and Hugging Face let it be attended to and give other features at such sizes.
        """
        self.resolution, self.stages = _fit(self.architecture, resolution, window, pad)
        self._set_windows()

    def compile_blocks(self, backend: str = "inductor") -> None:
        """torch.compile the training step of every block, in place and lazily; parameters keep their names.

        Blocks of one shape share one graph (two where every second block is shifted, one more where some have a
        main-branch norm): 6 for T to L, 7 for H and G, whatever the depth. Another resolution or batch size compiles
        again, beside what is there. A graph that would break is an error. In eval mode and without gradients, where
        batches have many sizes, blocks run as they are written.
        """
        compiled = Compiled(run_block, backend)
        for stage in self.layers:
            for block in cast(Stage, stage).blocks:
                cast(Block, block).compiled = compiled

    def _set_windows(self) -> None:
        for stage, window, pretrained in zip(self.layers, self.stages, self.pretrained_windows, strict=True):
            cast(Stage, stage).set_window(window, pretrained, self.position_bias)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """Patch tokens, normalised: (B, in_chans, H, W) -> (B, H / patch, W / patch, C_1), rounded up."""
        expected = (self.in_chans, *self.resolution)
        if tuple(images_BCHW.shape[1:]) != expected:
            raise ModelError(
                f"The encoder is set to images of shape (B, {self.in_chans}, {self.resolution[0]}, "
                f"{self.resolution[1]}); got {tuple(images_BCHW.shape)}. "
                "Call resize(resolution) for another size (with pad=True for any), or build it with another in_chans."
            )
        out: Tensor = self.patch_embed(images_BCHW)
        return out

    def encode(self, tokens_BHWC: Tensor) -> list[Tensor]:
        """Run the stages on embedded tokens: list of (B, H_s, W_s, C_s), without the final norm."""
        maps = []
        for stage, recompute in zip(self.layers, self.recompute, strict=True):
            tokens_BHWC = stage(tokens_BHWC, recompute)
            maps.append(tokens_BHWC)
        return maps

    def forward_features(self, images_BCHW: Tensor) -> Tensor:
        """The last stage after the final norm, (B, H_S, W_S, C_S): timm's `forward_features`."""
        out: Tensor = self.norm(self.encode(self.embed(images_BCHW))[-1])
        return out

    def features(self, images_BCHW: Tensor) -> list[Tensor]:
        """One map per stage for dense tasks, list of (B, C_s, H_s, W_s), without the final norm.

        The maps of timm's features_only, but channels first; in memory they are channels-last.
        """
        return [tokens_BHWC.permute(0, 3, 1, 2) for tokens_BHWC in self.encode(self.embed(images_BCHW))]

    def pool(self, images_BCHW: Tensor) -> Tensor:
        """One vector per image, (B, C_S): the mean over the last map after the final norm."""
        return self.forward_features(images_BCHW).mean(dim=(1, 2))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """The same as `pool`."""
        return self.pool(images_BCHW)


class PatchEmbed(nn.Module):
    """Patches side by side -> normalised tokens, (B, C, H, W) -> (B, H / patch, W / patch, embed_dim), rounded up."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        patch = architecture.patch_size
        self.proj = nn.Conv2d(architecture.in_chans, architecture.embed_dim, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(architecture.embed_dim)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        down, right = (-side % patch for side, patch in zip(images_BCHW.shape[2:], self.proj.stride, strict=True))
        if down or right:
            images_BCHW = F.pad(images_BCHW, (0, right, 0, down))
        out: Tensor = self.norm(self.proj(images_BCHW).permute(0, 2, 3, 1))
        return out


class PatchMerging(nn.Module):
    """2x2 tokens become one, (B, H, W, C) -> (B, H / 2, W / 2, 2C), rounded up, with zeros beyond the edge.

    The norm comes after the projection (V1: before).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(2 * dim)

    def forward(self, tokens_BHWC: Tensor) -> Tensor:
        if tokens_BHWC.shape[1] % 2 or tokens_BHWC.shape[2] % 2:
            tokens_BHWC = F.pad(tokens_BHWC, (0, 0, 0, tokens_BHWC.shape[2] % 2, 0, tokens_BHWC.shape[1] % 2))
        B, H, W, C = tokens_BHWC.shape
        # The official order of the four neighbours: (0, 0), (1, 0), (0, 1), (1, 1).
        quads = tokens_BHWC.reshape(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 4, 2, 5).flatten(3)
        out: Tensor = self.norm(self.reduction(quads))
        return out


class Mlp(nn.Module):
    """Two linear layers with a GELU between, on the last axis."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(tokens)))
        return out


class Stage(nn.Module):
    """Merging (all stages but the first), then the blocks: (B, H, W, C) -> (B, H_s, W_s, C_s).

    The tables that depend on the window alone are held here, once for all blocks, and are not part of the state dict.
    """

    coords_L2: Tensor
    index_NN: Tensor
    padding_wN: Tensor | None
    shifted_padding_wN: Tensor | None
    regions_wN: Tensor | None
    order_P: Tensor | None
    inverse_P: Tensor | None

    def __init__(self, architecture: Architecture, index: int, drop_paths: Sequence[float]) -> None:
        super().__init__()
        dim, num_heads = architecture.stage_dims[index], architecture.num_heads[index]
        self.downsample = PatchMerging(dim // 2) if index > 0 else None
        self.drop_paths = tuple(drop_paths)
        self.blocks = nn.ModuleList(
            Block(
                dim,
                num_heads,
                hidden_dim=int(dim * architecture.mlp_ratio),
                extra_norm=architecture.has_extra_norm(index, j),
            )
            for j in range(len(drop_paths))
        )
        self._windows: tuple[StageWindow, Pair, PositionBias] | None = None

    def set_window(self, stage_window: StageWindow, pretrained_window: Pair, kind: PositionBias) -> None:
        self._windows = stage_window, pretrained_window, kind
        for block in self.blocks:
            cast(Block, block).stage_window = stage_window
        self._fill_tables()

    def _fill_tables(self) -> None:
        if self._windows is None:
            return
        stage_window, pretrained_window, kind = self._windows
        device = next(self.parameters()).device
        shifted, padded = any(stage_window.shift), stage_window.padded != stage_window.grid
        order = shifted_order(stage_window, device) if shifted else None
        padding = [padding_places(stage_window, shifted=s, device=device) if padded else None for s in (False, True)]
        tables = {
            "coords_L2": relative_coords(stage_window.window, pretrained_window, kind=kind, device=device).flatten(
                0, 1
            ),
            "index_NN": relative_position_index(stage_window.window, device),
            "padding_wN": padding[0],
            "shifted_padding_wN": padding[1],
            "regions_wN": shift_regions(stage_window, device) if shifted else None,
            "order_P": order,
            "inverse_P": None if order is None else order.argsort(),
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Stage:
        # Tables are computed, never converted: `model.bfloat16()` must not round the coordinates, and `to_empty()`
        # after construction on the meta device must not leave them blank.
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._fill_tables()
        return self

    def forward(self, tokens_BHWC: Tensor, recompute: Recompute = "none") -> Tensor:
        if self.downsample is not None:
            tokens_BHWC = self.downsample(tokens_BHWC)
        if under_autocast(tokens_BHWC.device.type):
            # The main branch adds up in fp32. On a GPU autocast's norms see to that; on a CPU they return bf16.
            tokens_BHWC = tokens_BHWC.float()
        for j, block in enumerate(self.blocks):
            tables = self.tables(shifted=j % 2 == 1)  # every second block
            tokens_BHWC = block(tokens_BHWC, tables, self.drop_scale(tokens_BHWC, j), recompute)
        return tokens_BHWC

    def tables(self, *, shifted: bool) -> WindowTables:
        if not shifted:
            return WindowTables(self.coords_L2, self.index_NN, self.padding_wN)
        shift = self.regions_wN, self.order_P, self.inverse_P
        return WindowTables(self.coords_L2, self.index_NN, self.shifted_padding_wN, *shift)

    def drop_scale(self, tokens_BHWC: Tensor, block: int) -> Tensor | None:
        """Stochastic depth of one block: factors of its two branches per sample, (2, B, 1, 1, 1), or None.

        0 with probability p, else 1 / (1 - p), which keeps the mean. Drawn here, so that the rate of a block is no
        constant of its compiled code, and a recomputed block meets the same draw.
        """
        if not self.training or not any(self.drop_paths):
            return None
        keep = 1.0 - self.drop_paths[block]
        return tokens_BHWC.new_empty(2, len(tokens_BHWC), 1, 1, 1).bernoulli_(keep).div_(keep)


class Block(nn.Module):
    """Attention and MLP, each ending in its norm before it joins the main branch ("res-post-norm", paper 3.2)."""

    stage_window: StageWindow

    def __init__(self, dim: int, num_heads: int, *, hidden_dim: int, extra_norm: bool) -> None:
        super().__init__()
        self.attn = WindowAttention(dim, num_heads)
        self.norm1 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim) if extra_norm else None
        self.compiled: Compiled | None = None

    def forward(
        self, tokens_BHWC: Tensor, tables: WindowTables, drop_2B111: Tensor | None, recompute: Recompute = "none"
    ) -> Tensor:
        if not self.training or not torch.is_grad_enabled():
            return self.run(tokens_BHWC, tables, drop_2B111)
        if self.compiled is None:
            return run_block(self, tokens_BHWC, tables, drop_2B111, recompute)
        shape = tokens_BHWC.shape, tokens_BHWC.dtype, self.stage_window, tables.order_P is None
        key = *shape, self.norm3 is None, drop_2B111 is None, recompute
        out: Tensor = self.compiled(key, self, tokens_BHWC, tables, drop_2B111, recompute)
        return out

    def run(self, tokens_BHWC: Tensor, tables: WindowTables, drop_2B111: Tensor | None) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C). drop_2B111: see `Stage.drop_scale`."""
        branch_BHWC = self.norm1(self.attend(tokens_BHWC, tables))
        tokens_BHWC = tokens_BHWC + (branch_BHWC if drop_2B111 is None else branch_BHWC * drop_2B111[0])
        branch_BHWC = self.norm2(self.mlp(tokens_BHWC))
        tokens_BHWC = tokens_BHWC + (branch_BHWC if drop_2B111 is None else branch_BHWC * drop_2B111[1])
        return tokens_BHWC if self.norm3 is None else self.norm3(tokens_BHWC)

    def attend(self, tokens_BHWC: Tensor, tables: WindowTables) -> Tensor:
        """Attention inside the windows, (B, H, W, C) -> (B, H, W, C)."""
        if self.stage_window.is_global:
            out_BPC = self.attn(tokens_BHWC.flatten(1, 2), tables)
            return cast(Tensor, out_BPC.view(tokens_BHWC.shape))
        (H, W), grid = self.stage_window.grid, self.stage_window.padded
        if grid == (H, W):
            return self.attend_in_windows(tokens_BHWC, tables)
        padded_BHWC = F.pad(tokens_BHWC, (0, 0, 0, grid[1] - W, 0, grid[0] - H))
        return self.attend_in_windows(padded_BHWC, tables)[:, :H, :W]

    def attend_in_windows(self, tokens_BHWC: Tensor, tables: WindowTables) -> Tensor:
        """Attention on a grid of whole windows, (B, H, W, C) -> (B, H, W, C)."""
        window, grid = self.stage_window.window, self.stage_window.padded
        B, _, _, C = tokens_BHWC.shape
        if tables.order_P is None or tables.inverse_P is None:
            return merge_windows(self.attn(partition_windows(tokens_BHWC, window), tables), window, grid)
        tokens_BPC = reorder(tokens_BHWC.flatten(1, 2), tables.order_P, tables.inverse_P)
        out_BwNC = self.attn(tokens_BPC.view(-1, len(tables.index_NN), C), tables)
        return reorder(out_BwNC.view(B, -1, C), tables.inverse_P, tables.order_P).view(tokens_BHWC.shape)


def run_block(
    block: Block, tokens_BHWC: Tensor, tables: WindowTables, drop_2B111: Tensor | None, recompute: Recompute
) -> Tensor:
    """A block in training, under its policy: what is compiled."""
    return run(block.run, tokens_BHWC, tables, drop_2B111, recompute=recompute)


def create_encoder(name: str, *, resolution: int | Sequence[int] = 192, in_chans: int = 3, **options: Any) -> SwinV2:
    """A SwinV2 with random weights: swinv2_t, s, b, l, h, g, or swinv2_demo (for 32 px images).

    resolution: pixels, one int or (H, W). options: those of `SwinV2` (window, drop_path, ...) and, to change the
    architecture, fields of `Architecture` (embed_dim, depths, head_dim, ...). Raises ModelError for an unknown name
    or option (with the nearest known one) and for a resolution that does not fit.
    """
    of_model = [p for p in inspect.signature(SwinV2.__init__).parameters if p not in ("self", "architecture")]
    model_options = {key: options.pop(key) for key in list(options) if key in of_model}
    architecture = get_architecture(name, in_chans=in_chans, **options)
    return SwinV2(architecture, resolution=resolution, **model_options)


def num_parameters(architecture: Architecture | str) -> int:
    """Parameters of the encoder, counted on the meta device: no memory is used."""
    if isinstance(architecture, str):
        architecture = get_architecture(architecture)
    with torch.device("meta"):
        # The smallest image there is, with one window per stage: it fits every architecture.
        encoder = SwinV2(architecture, resolution=architecture.stride, window=architecture.stride)
    return sum(p.numel() for p in encoder.parameters())


def _fit(
    architecture: Architecture, resolution: int | Sequence[int], window: int | Sequence[int] | None, pad: bool
) -> tuple[Pair, tuple[StageWindow, ...]]:
    stages = stage_windows(
        resolution,
        patch_size=architecture.patch_size,
        num_stages=architecture.num_stages,
        window_ratio=architecture.window_ratio,
        window=window,
        pad=pad,
    )
    return as_pair(resolution), stages


def _pretrained_windows(given: Sequence[int | Sequence[int]] | None, stages: Sequence[StageWindow]) -> tuple[Pair, ...]:
    if given is None:
        return tuple(stage.window for stage in stages)
    windows = tuple(as_pair(window) for window in given)
    if len(windows) != len(stages) or any(min(window) < 1 for window in windows):
        raise ModelError(
            f"pretrained_windows has one window of at least 1 token for each of the {len(stages)} stages; got {given}. "
            'For coordinates without a pretrained window (0 elsewhere) use position_bias="log_renormalised".'
        )
    return windows


def _recompute(given: Recompute | Sequence[Recompute], num_stages: int) -> tuple[Recompute, ...]:
    policies = (given,) * num_stages if isinstance(given, str) else tuple(given)
    if len(policies) != num_stages:
        raise ModelError(f"recompute is one policy, or one for each of the {num_stages} stages; got {given}.")
    for policy in policies:
        _check_choice("recompute", policy, RECOMPUTES)
    return policies


def _chunks(given: int | Sequence[int] | None, attention: Attention, num_stages: int) -> tuple[int | None, ...]:
    if given is None:
        return (None,) * num_stages
    chunks = (given,) * num_stages if isinstance(given, int) else tuple(given)
    if len(chunks) != num_stages or any(chunk < 0 for chunk in chunks) or not any(chunks):
        raise ModelError(
            f"chunk is a number of windows from 1, or one for each of the {num_stages} stages (0: as the core likes); "
            f"got {given}."
        )
    if attention not in ("auto", "chunked"):
        raise ModelError(f"chunk is for the chunked core; got chunk={given} with attention={attention!r}. Drop one.")
    return tuple(chunk or None for chunk in chunks)


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ModelError(f"{option} is one of {', '.join(choices)}; got {value!r}.")
