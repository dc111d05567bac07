"""Settings of a fine-tuning run: the root schema of conf/finetune.yaml."""

import dataclasses
from typing import Literal

from data.config import LabelledDataConfig
from swinmim.config import ModelConfig, schema
from swinmim.training.settings import RunConfig


@schema
class ClassifyConfig:
    kind: Literal["classify"]
    crop_scale: tuple[float, float]
    """Share of the image's area that a random crop keeps."""
    flip: bool
    randaug_ops: int
    """Operations of RandAugment per image; 0 is off."""
    randaug_magnitude: int
    """Strength of RandAugment, 0 to 30."""
    mixup: float
    """Alpha of mixup; 0 is off. With cutmix, each batch takes one of the two at random."""
    cutmix: float
    """Alpha of cutmix; 0 is off."""
    erasing: float
    """Probability that a rectangle of an image is replaced by noise; 0 is off."""
    label_smoothing: float
    crop_ratio: float
    """Evaluation: the shorter side is resized to resolution / crop_ratio, then the centre is cut out."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_ratio <= 1:
            raise ValueError(f"crop_ratio must lie in (0, 1], got {self.crop_ratio}")
        if self.randaug_ops == 0 and self.randaug_magnitude != 0:
            raise ValueError("randaug_magnitude has no effect with randaug_ops=0; set it to 0")


@schema
class FinetuneConfig(RunConfig):
    ckpt: str | None = dataclasses.field(
        metadata={"required": "a run directory or an encoder folder, or null to train from scratch (with model=...)"}
    )
    model: ModelConfig | None = None
    """Architecture of the from-scratch baseline; the encoder folder decides otherwise."""
    task: ClassifyConfig
    data: LabelledDataConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ckpt is None and self.model is None:
            raise ValueError("ckpt=null trains from scratch and needs an architecture: add model=swinv2_b (or another)")
        if self.ckpt is not None and self.model is not None:
            raise ValueError(
                "model has no effect with ckpt: the encoder folder holds the architecture. Remove model=..."
            )
