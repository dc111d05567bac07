"""Image classification: encoder, mean over the last map, one linear layer. Recipe: configs of Swin and SimMIM."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.data.random_erasing import RandomErasing
from torch import Tensor, nn
from torchvision.transforms import v2

from finetune.config import ClassifyConfig
from swinmim.models.swinv2 import SwinV2


class Classifier(nn.Module):
    """Encoder with a linear head.

    Args:
        encoder: SwinV2.
        num_classes: outputs.
    """

    def __init__(self, encoder: SwinV2, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.num_features, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> logits (B, classes)."""
        return self.head(self.encoder.pool(images_BCHW))  # type: ignore[no-any-return]


class Mixing:
    """Mixup or cutmix of a batch, one of them at random, and random erasing.

    Args:
        config: strengths; both mixings at 0 leave the labels as they are.
        num_classes: classes of the soft labels.
    """

    def __init__(self, config: ClassifyConfig, num_classes: int) -> None:
        mixers: list[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = []
        if config.mixup > 0:
            mixers.append(v2.MixUp(alpha=config.mixup, num_classes=num_classes))
        if config.cutmix > 0:
            mixers.append(v2.CutMix(alpha=config.cutmix, num_classes=num_classes))
        self.mixer = v2.RandomChoice(mixers) if mixers else None
        self.erasing = config.erasing

    def __call__(self, images_BCHW: Tensor, label_B: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images and int64 labels -> images and labels, soft (B, classes) where a mixer ran."""
        if self.erasing:
            erase = RandomErasing(self.erasing, mode="pixel", device=str(images_BCHW.device))
            images_BCHW = erase(images_BCHW)
        if self.mixer is None:
            return images_BCHW, label_B
        return self.mixer(images_BCHW, label_B)  # type: ignore[no-any-return]


def classification_loss(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    """Cross-entropy with hard (B,) or soft (B, classes) targets, in float32."""
    with torch.autocast(logits.device.type, enabled=False):
        return F.cross_entropy(logits.float(), target, label_smoothing=label_smoothing)
