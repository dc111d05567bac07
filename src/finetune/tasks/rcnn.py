"""torchvision's Faster R-CNN and Mask R-CNN without their backbone and transform: a head on the encoder's maps.

Under autocast its layers compute in bf16, and whatever becomes a coordinate or a loss is float32: bf16 tells no two
places of 1024 pixels apart that are less than 4 apart.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from swinmim.models.architecture import Architecture

_RATIOS = (0.5, 1.0, 2.0)  # height / width


class Sizes(Protocol):
    """Those of `DetectConfig` that shape the head."""

    @property
    def anchor_scale(self) -> float: ...
    @property
    def fpn_channels(self) -> int: ...
    @property
    def box_channels(self) -> int: ...
    @property
    def proposals(self) -> int: ...
    @property
    def sampled(self) -> int: ...
    @property
    def least_score(self) -> float: ...
    @property
    def most_objects(self) -> int: ...


class RCNN(nn.Module):
    """Norms, feature pyramid, proposals, answers.

    architecture: of the encoder. classes: without the background. masks: Mask R-CNN.
    """

    def __init__(self, architecture: Architecture, classes: int, settings: Sizes, *, masks: bool) -> None:
        super().__init__()
        self.patch = architecture.patch_size
        dims, channels = list(architecture.stage_dims), settings.fpn_channels
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in dims[:-1])
        pyramid = FeaturePyramidNetwork(dims, channels, extra_blocks=LastLevelMaxPool())
        pyramid.out_channels = channels
        names = [str(stage) for stage in range(len(dims))]
        strides = [architecture.patch_size * 2**level for level in range(len(dims) + 1)]
        with torch.device("cpu"):  # anchors are computed, also for a network whose weights are on the meta device
            anchors = AnchorGenerator(
                sizes=tuple((settings.anchor_scale * stride,) for stride in strides),
                aspect_ratios=(_RATIOS,) * len(strides),
            )
        parts: dict[str, Any] = {
            "rpn_anchor_generator": anchors,
            "rpn_head": _RPNHead(channels, len(_RATIOS)),
            "rpn_pre_nms_top_n_train": 2 * settings.proposals,
            "rpn_pre_nms_top_n_test": settings.proposals,
            "rpn_post_nms_top_n_train": settings.proposals,
            "rpn_post_nms_top_n_test": settings.proposals,
            "box_batch_size_per_image": settings.sampled,
            "box_roi_pool": MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
            "box_head": TwoMLPHead(channels * 7 * 7, settings.box_channels),
            "box_predictor": _BoxPredictor(settings.box_channels, classes + 1),
            "box_score_thresh": settings.least_score,
            "box_detections_per_img": settings.most_objects,
        }
        kind: Any = FasterRCNN
        if masks:
            kind = MaskRCNN
            parts["mask_roi_pool"] = MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2)
            parts["mask_head"] = MaskRCNNHeads(channels, (channels,) * 4, 1)
            parts["mask_predictor"] = _MaskPredictor(channels, channels, classes + 1)
        whole = kind(pyramid, **parts)
        self.pyramid, self.rpn, self.roi_heads = pyramid, whole.rpn, whole.roi_heads

    def forward(self, maps: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        """Maps (B, H_s, W_s, C_s) -> losses by name in training, answers of each image else; see `Detect`."""
        normed = [norm(tokens) for norm, tokens in zip(self.norms, maps[:-1], strict=True)] + maps[-1:]
        levels = OrderedDict((str(n), tokens.permute(0, 3, 1, 2)) for n, tokens in enumerate(normed))
        features = {name: level.float() for name, level in self.pyramid(levels).items()}
        canvas = maps[0].shape[1] * self.patch, maps[0].shape[2] * self.patch
        batch = len(maps[0])
        images = ImageList(maps[0].new_empty(1).expand(batch, 1, *canvas), [canvas] * batch)  # only its shape is read
        proposals, proposal_losses = self.rpn(images, features, targets)
        answers, losses = self.roi_heads(features, proposals, images.image_sizes, targets)
        return losses | proposal_losses if self.training else answers


class _RPNHead(RPNHead):  # type: ignore[misc]
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        objectness, deltas = super().forward(x)
        return [level.float() for level in objectness], [level.float() for level in deltas]


class _BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, deltas = super().forward(x)
        return scores.float(), deltas.float()


class _MaskPredictor(MaskRCNNPredictor):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = super().forward(x)
        return logits.float()
