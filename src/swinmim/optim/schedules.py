"""Learning-rate schedules as pure functions of the optimizer step, and their settings."""

import math
from collections.abc import Callable
from typing import Literal

from swinmim.config import schema
from swinmim.errors import ConfigError


@schema
class ScheduleConfig:
    kind: Literal["cosine", "multistep"]
    """cosine: down to min_lr after the warm-up. multistep: times `gamma` at each milestone."""
    warmup_epochs: float | None = None
    """Linear warm-up in epochs; give this or warmup_steps."""
    warmup_steps: int | None = None
    """Linear warm-up in optimizer steps; SwinV2-G states it so (paper, appendix)."""
    warmup_lr: float = 0.0
    """Rate at step 0, for a batch of 512 like optim.base_lr."""
    min_lr: float = 0.0
    """Last rate of the cosine, for a batch of 512 like optim.base_lr."""
    milestones: tuple[float, ...] = ()
    """Epochs at which multistep multiplies the rate by gamma."""
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if (self.warmup_epochs is None) == (self.warmup_steps is None):
            raise ValueError("give exactly one of warmup_epochs and warmup_steps (the other one null)")
        if self.kind == "cosine" and self.milestones:
            raise ValueError("milestones have no effect with kind=cosine; remove them or choose schedule=multistep")
        if self.kind == "multistep" and (not self.milestones or self.min_lr):
            raise ValueError("kind=multistep needs milestones, and min_lr has no effect there (set it to 0)")


def peak_lr(base_lr: float, global_batch_size: int) -> float:
    """Linear scaling rule of Swin and SimMIM: base_lr is for a batch of 512 (main_simmim_pt.py)."""
    return base_lr * global_batch_size / 512


def warmup_steps(config: ScheduleConfig, steps_per_epoch: int) -> int:
    """Optimizer steps of the linear warm-up."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    assert config.warmup_epochs is not None
    return round(config.warmup_epochs * steps_per_epoch)


def lr_factor(
    config: ScheduleConfig, *, base_lr: float, total_steps: int, steps_per_epoch: int
) -> Callable[[int], float]:
    """Factor on the peak rate of a parameter group at each optimizer step.

    Where the warm-up starts and the cosine ends are rates, the same for every group, whatever its peak: so in
    microsoft/Swin-Transformer lr_scheduler.py with timm 0.4.12. A group whose peak lies below min_lr rises to it.

    Args:
        config: the schedule's settings.
        base_lr: peak rate of the group per 512 images.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps per epoch.

    Returns:
        A function step -> factor, exact at every step, so that a resumed run needs no state.

    Raises:
        ConfigError: the warm-up is not shorter than the run, or a milestone lies beyond its end.
    """
    warm = warmup_steps(config, steps_per_epoch)
    if warm >= total_steps:
        raise ConfigError(
            f"the warm-up ({warm} steps) must be shorter than the run ({total_steps} steps of "
            f"{steps_per_epoch} an epoch). Train longer (trainer.max_epochs) or "
            "shorten it (schedule.warmup_epochs or schedule.warmup_steps)."
        )
    start, floor = config.warmup_lr / base_lr, config.min_lr / base_lr
    milestones = [round(epoch * steps_per_epoch) for epoch in config.milestones]
    if milestones and milestones[-1] >= total_steps:
        raise ConfigError(
            f"schedule.milestones {list(config.milestones)} lie beyond the run of "
            f"{total_steps / steps_per_epoch:g} epochs. "
            "Train longer (trainer.max_epochs), move them, or choose schedule=cosine."
        )

    def factor(step: int) -> float:
        if step < warm:
            return start + (1 - start) * step / warm
        match config.kind:
            case "cosine":
                progress = min(1.0, (step - warm) / (total_steps - warm))
                return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
            case "multistep":
                return float(config.gamma ** sum(step >= milestone for milestone in milestones))

    return factor
