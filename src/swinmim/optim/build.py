"""AdamW and its schedule from their settings."""

from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from swinmim.optim.param_groups import OF_ATTENTION, param_groups
from swinmim.optim.schedules import ScheduleConfig, lr_factor, peak_lr
from swinmim.optim.settings import OptimConfig


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
