"""Settings of a fine-tuning run: the root schema of conf/finetune.yaml."""

import dataclasses

from data.config import LabelledDataConfig
from finetune.tasks.classify import ClassifyConfig
from swinmim.config import ModelConfig, schema
from swinmim.models.attention import Attention
from swinmim.models.recompute import Recompute
from swinmim.optim.build import OptimConfig
from swinmim.optim.schedules import ScheduleConfig
from swinmim.training.callbacks.checkpoint import CheckpointConfig
from swinmim.training.strategy import StrategyConfig
from swinmim.training.trainer import LoggerConfig, TrainerConfig


@schema
class CallbacksConfig:
    checkpoint: CheckpointConfig


@schema
class FinetuneConfig:
    ckpt: str | None = dataclasses.field(
        metadata={"required": "a run directory or an encoder folder, or null to train from scratch (with model=...)"}
    )
    model: ModelConfig | None = None
    """Architecture of the from-scratch baseline; the encoder folder decides otherwise."""
    task: ClassifyConfig
    data: LabelledDataConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    trainer: TrainerConfig
    strategy: StrategyConfig
    logger: LoggerConfig
    callbacks: CallbacksConfig
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
    batch_size: int
    seed: int
    resume: str | None
    output_dir: str

    def __post_init__(self) -> None:
        if self.ckpt is None and self.model is None:
            raise ValueError("ckpt=null trains from scratch and needs an architecture: add model=swinv2_b (or another)")
        if self.ckpt is not None and self.model is not None:
            raise ValueError(
                "model has no effect with ckpt: the encoder folder holds the architecture. Remove model=..."
            )
