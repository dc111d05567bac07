"""Features of whole sets from the stages of a frozen encoder.

Legend: n images, N tokens of a stage's map, C its channels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from swinmim.models.swinv2 import SwinV2


@dataclass(frozen=True)
class Features:
    """What an encoder says of n images, by stage, counted from 1; on the CPU.

    pooled: float32 (n, C), the mean over the map. maps: float16 (n, N, C), or none were kept. labels: int64 (n,).
    """

    pooled: dict[int, Tensor]
    maps: dict[int, Tensor]
    labels: Tensor


def maps_of(encoder: SwinV2, images_BCHW: Tensor, stages: Sequence[int]) -> dict[int, Tensor]:
    """Stage -> its map, float32 (B, N, C); the last stage's after the final norm, as in `SwinV2.pool`."""
    maps_BHWC = encoder.encode(encoder.embed(images_BCHW))
    maps_BHWC[-1] = encoder.norm(maps_BHWC[-1])
    return {stage: maps_BHWC[stage - 1].float().flatten(1, 2) for stage in stages}


def features_bytes(encoder: SwinV2, stages: Sequence[int], count: int, *, keep_maps: bool) -> int:
    """Memory that `collect` needs for so many images."""
    total = 0
    for stage in stages:
        (height, width), channels = encoder.stages[stage - 1].grid, encoder.architecture.stage_dims[stage - 1]
        total += count * channels * (4 + 2 * height * width * keep_maps)
    return total


@torch.no_grad()
def collect(
    encoder: SwinV2, batches: Iterable[tuple[Tensor, Tensor]], stages: Sequence[int], count: int, *, keep_maps: bool
) -> Features:
    """Features of all images, each computed once, by an encoder in eval mode.

    batches: normalised images (B, C, H, W) on the encoder's device, and labels (B,). count: images in all, at most.
    Raises ValueError for features that are not finite, or beyond float16.
    """
    pooled: dict[int, Tensor] = {}
    maps: dict[int, Tensor] = {}
    labels, done = torch.zeros(count, dtype=torch.int64), 0
    for images_BCHW, label in batches:
        place = slice(done, done + len(label))
        for stage, tokens_BNC in maps_of(encoder, images_BCHW, stages).items():
            if stage not in pooled:
                pooled[stage] = torch.empty(count, tokens_BNC.shape[2])
            pooled[stage][place] = tokens_BNC.mean(1).cpu()
            kept = tokens_BNC.half() if keep_maps else tokens_BNC
            if not kept.isfinite().all():
                raise ValueError(
                    f"stage {stage} gives values that are not finite, or beyond {torch.finfo(kept.dtype).max:.3g}"
                )
            if keep_maps:
                if stage not in maps:
                    maps[stage] = torch.empty(count, *kept.shape[1:], dtype=kept.dtype)
                maps[stage][place] = kept.cpu()
        labels[place] = label.cpu()
        done += len(label)
    pooled, maps = ({stage: values[:done] for stage, values in kind.items()} for kind in (pooled, maps))
    return Features(pooled, maps, labels[:done])
