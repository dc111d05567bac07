"""Settings of a pretraining run: the root schema of conf/pretrain.yaml."""

from typing import Annotated, Literal

from pydantic import Field

from data.config import DataConfig
from swinmim.config import Area, Count, ModelConfig, Positive, schema
from swinmim.training.callback_settings import ReconstructionsConfig
from swinmim.training.settings import CallbacksConfig, RunConfig


@schema
class MimConfig:
    mask_unit: Count = 32
    """Side of a masked square in pixels (SimMIM: 32)."""
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.6
    target: Literal["raw", "local_norm"] = "raw"
    """raw pixels (SimMIM), or each pixel normalised by its 47-px window (the SwinV2 recipe)."""


@schema
class AugmentConfig:
    scale: tuple[Area, Area] = (0.67, 1.0)
    """Share of the image's area that a random crop keeps."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    flip: bool = True
    """Random horizontal flip; switch off where left and right mean something (text, digits)."""

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if low > high:
                raise ValueError(f"{name} is [least, most], got [{low}, {high}]")


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

    def __post_init__(self) -> None:
        super().__post_init__()
        bands, channels = self.callbacks.reconstructions.bands, self.model.in_chans
        if bands and self.ckpt is None and max(bands) >= channels:
            raise ValueError(
                f"callbacks.reconstructions.bands are three of the channels 0 to {channels - 1}, got {list(bands)}"
            )
