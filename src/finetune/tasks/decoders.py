"""Decoders of segmentation_models_pytorch over the maps of our encoder."""

import math
from typing import Literal

from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import LayerNorm2d, UPerNetDecoder
from torch import Tensor, nn
from torch.nn.functional import interpolate

from swinmim.models.architecture import Architecture

_GROUPS = 32


class Decoder(nn.Module):
    """Maps (B, C_s, H_s, W_s) of all stages, the finest first -> logits (B, classes, H, W) in the size of the image.

    Their batch norms become group norms, with at least 8 channels a group: batches of dense tasks are small, and on one
    image the 1x1 map of a pyramid's top has no variance over the batch. So a result depends neither on the batch size
    nor on the number of processes, and there are no running statistics.

    width: channels, a multiple of 8.
    """

    def __init__(
        self, kind: Literal["upernet", "segformer"], architecture: Architecture, width: int, classes: int
    ) -> None:
        super().__init__()
        self.patch_size = architecture.patch_size
        channels = [architecture.in_chans, 0, *architecture.stage_dims]  # theirs begin at stride 1 and 2
        depth = len(channels) - 1
        self.norms = nn.ModuleList()
        if kind == "upernet":  # which normalises the maps itself
            self.decoder = UPerNetDecoder(channels, depth, width)
        else:
            self.norms.extend(LayerNorm2d(dim, eps=1e-6) for dim in architecture.stage_dims)
            self.decoder = SegformerDecoder(channels, depth, width)
        _group_norms(self.decoder)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, maps: list[Tensor]) -> Tensor:
        maps = [norm(map_BCHW) for norm, map_BCHW in zip(self.norms, maps, strict=True)] if len(self.norms) else maps
        B, _, H, W = maps[0].shape
        size = H * self.patch_size, W * self.patch_size
        # SegFormer's takes the size of the result, a quarter of the image, from a first map that it does not read
        image_B0HW, half_B0HW = (maps[0].new_empty(B, 0, 4 * H // by, 4 * W // by) for by in (1, 2))
        logits: Tensor = self.classifier(self.decoder([image_B0HW, half_B0HW, *maps]))
        return interpolate(logits, size, mode="bilinear")


def _group_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(math.gcd(_GROUPS, child.num_features // 8), child.num_features))
        else:
            _group_norms(child)
