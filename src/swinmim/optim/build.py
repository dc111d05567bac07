"""AdamW and its schedule from their settings."""

from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from swinmim.config import schema
from swinmim.optim.param_groups import OF_ATTENTION, param_groups
from swinmim.optim.schedules import ScheduleConfig, lr_factor, peak_lr


@schema
class OptimConfig:
    base_lr: float
    """Peak learning rate for a batch of 512; the real one is base_lr * global_batch_size / 512."""
    weight_decay: float = 0.05
    decay_attention: bool = False
    """Weight decay for logit_scale and the weights of the position bias (cpb_mlp) too: the official pretraining has it,
    the official fine-tuning has not."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
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


def build_optimizer(
    model: nn.Module,
    optim: OptimConfig,
    schedule: ScheduleConfig,
    *,
    depths: Sequence[int],
    rules: Sequence[str],
    global_batch_size: int,
    total_steps: int,
    steps_per_epoch: int,
) -> tuple[AdamW, LambdaLR]:
    """AdamW over `param_groups` and a per-step schedule; layer decay scales the peak of a group, nothing else.

    Args:
        model: module with timm's SwinV2 parameter names.
        optim, schedule: their settings.
        depths: blocks per stage.
        rules: no-decay rules that must match (see `param_groups.NO_DECAY`); `optim.decay_attention` lifts two.
        global_batch_size: images per optimizer step over all ranks.
        total_steps, steps_per_epoch: optimizer steps.
    """
    lr = peak_lr(optim.base_lr, global_batch_size)
    if optim.decay_attention:
        rules = [rule for rule in rules if rule not in OF_ATTENTION]
    groups = param_groups(
        model, weight_decay=optim.weight_decay, depths=depths, layer_decay=optim.layer_decay, rules=rules
    )
    for group in groups:
        group["lr"] = lr * group["lr_scale"]
    optimizer = AdamW(groups, lr=lr, betas=optim.betas, eps=optim.eps, fused=True)
    factors = [
        lr_factor(
            schedule,
            base_lr=optim.base_lr * group["lr_scale"],
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
        )
        for group in groups
    ]
    return optimizer, LambdaLR(optimizer, factors)
