"""Settings of the optimizer, apart from it: checking them must not wait for the import of torch."""

from typing import Annotated

from pydantic import Field

from swinmim.config import NotNegative, Positive, schema

Beta = Annotated[float, Field(ge=0, lt=1)]


@schema
class OptimConfig:
    base_lr: float
    """Peak learning rate for a batch of 512; the real one is base_lr * global_batch_size / 512."""
    weight_decay: NotNegative = 0.05
    decay_attention: bool = False
    """Weight decay for logit_scale and the weights of the position bias (cpb_mlp) too: the official pretraining has it,
    the official fine-tuning has not."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    layer_decay: float = 1.0
    """Factor on the peak rate per layer below the head; 1 is off (SimMIM fine-tunes SwinV2-B with 0.75)."""
    clip_grad_norm: float = 5.0
    """Largest gradient norm (Swin and SimMIM: 5; SwinV2-G: 100)."""

    def __post_init__(self) -> None:
        if self.base_lr <= 0:
            raise ValueError(f"base_lr must be positive, got {self.base_lr}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay must lie in (0, 1], got {self.layer_decay}")
        if self.clip_grad_norm <= 0:
            raise ValueError(f"clip_grad_norm must be positive, got {self.clip_grad_norm}")
