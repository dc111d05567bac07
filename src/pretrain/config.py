"""Settings of a pretraining run: the root schema of conf/pretrain.yaml."""

from typing import Literal

from data.config import DataConfig
from swinmim.config import ModelConfig, schema
from swinmim.training.callback_settings import ReconstructionsConfig
from swinmim.training.settings import CallbacksConfig, RunConfig


@schema
class MimConfig:
    mask_unit: int = 32
    """Side of a masked square in pixels (SimMIM: 32)."""
    mask_ratio: float = 0.6
    target: Literal["raw", "local_norm"] = "raw"
    """raw pixels (SimMIM), or each pixel normalised by its 47-px window (the SwinV2 recipe)."""


@schema
class AugmentConfig:
    scale: tuple[float, float] = (0.67, 1.0)
    """Share of the image's area that a random crop keeps."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    """Random horizontal flip; switch off where left and right mean something (text, digits)."""


@schema
class PretrainCallbacksConfig(CallbacksConfig):
    reconstructions: ReconstructionsConfig


@schema
class PretrainConfig(RunConfig):
    model: ModelConfig
    mim: MimConfig
    data: DataConfig
    augment: AugmentConfig
    callbacks: PretrainCallbacksConfig
