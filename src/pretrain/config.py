"""Settings of a pretraining run: the root schema of conf/pretrain.yaml."""

from typing import Literal

from data.config import DataConfig
from swinmim.config import ModelConfig, schema
from swinmim.models.attention import Attention
from swinmim.models.recompute import Recompute
from swinmim.optim.build import OptimConfig
from swinmim.optim.schedules import ScheduleConfig
from swinmim.training.callbacks.checkpoint import CheckpointConfig
from swinmim.training.callbacks.reconstructions import ReconstructionsConfig
from swinmim.training.strategy import StrategyConfig
from swinmim.training.trainer import LoggerConfig, TrainerConfig


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
class CallbacksConfig:
    checkpoint: CheckpointConfig
    reconstructions: ReconstructionsConfig


@schema
class PretrainConfig:
    model: ModelConfig
    mim: MimConfig
    data: DataConfig
    augment: AugmentConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    strategy: StrategyConfig
    logger: LoggerConfig
    callbacks: CallbacksConfig
    resolution: int | tuple[int, int]
    """Side of the images in pixels, or [height, width]."""
    window: int | tuple[int, int] | None
    """Attention window in tokens; null derives it from the resolution, an explicit one is checked."""
    drop_path: float
    """Stochastic depth of the last block; it grows linearly from 0 at the first."""
    recompute: Recompute | tuple[Recompute, ...]
    """What runs again in the backward pass, one policy or one per stage: selective norms and GELU, full whole blocks
    (least memory, about a third more time)."""
    attention: Attention
    """Core of window attention; auto chooses by device, chunked keeps no N x N tensor anywhere."""
    chunk: int | tuple[int, ...] | None
    """Windows at a time for the chunked core, one number or one per stage (0: as the core likes); null: by device."""
    compile: bool
    """torch.compile each shape of block once; the first steps then take minutes."""
    global_batch_size: int
    """Images per optimizer step over all devices; gradient accumulation follows from it."""
    batch_size: int
    """Images per device and forward pass."""
    seed: int
    ckpt: str | None
    """Encoder folder or run directory whose weights start the run; null starts from scratch."""
    resume: str | None
    """auto continues the newest checkpoint of output_dir, a path continues that one, null starts anew."""
    output_dir: str
