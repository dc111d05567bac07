"""Settings that pretraining and fine-tuning share; their root schemas extend it."""

from typing import Any

from swinmim.config import schema
from swinmim.models.attention import Attention
from swinmim.models.recompute import Recompute
from swinmim.optim.build import OptimConfig
from swinmim.optim.schedules import ScheduleConfig
from swinmim.training.callbacks.checkpoint import CheckpointConfig
from swinmim.training.callbacks.heartbeat import HeartbeatConfig
from swinmim.training.callbacks.stability import StabilityConfig
from swinmim.training.strategy import StrategyConfig
from swinmim.training.trainer import LoggerConfig, TrainerConfig


@schema
class CallbacksConfig:
    checkpoint: CheckpointConfig
    stability: StabilityConfig
    heartbeat: HeartbeatConfig


@schema
class RunConfig:
    optim: OptimConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    strategy: StrategyConfig
    logger: LoggerConfig
    resolution: int | tuple[int, int]
    """Side of the images in pixels, or [height, width]; the attention window grows with it."""
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
    resume: str | None
    """auto continues the newest checkpoint of output_dir, a path continues that one, null starts anew."""
    allow_drift: tuple[str, ...]
    """Settings that may differ from the resumed checkpoint's, beside those that always may (training/drift.py)."""
    output_dir: str
    callbacks: CallbacksConfig

    def encoder_options(self) -> dict[str, Any]:
        """Arguments of SwinV2 and load_encoder beside the architecture."""
        return {
            "resolution": self.resolution,
            "window": self.window,
            "drop_path": self.drop_path,
            "recompute": self.recompute,
            "attention": self.attention,
            "chunk": self.chunk,
        }
