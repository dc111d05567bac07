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
    warmup_share: float = 0.0
    """Linear warm-up as a share of the run, so that a recipe fits a run of any length."""
    warmup_epochs: float | None = None
    """The same in epochs, instead of the share."""
    warmup_steps: int | None = None
    """The same in optimizer steps, instead of the share."""
    warmup_lr: float = 0.0
    """Rate at step 0, for a batch of 512 like optim.base_lr."""
    min_lr: float = 0.0
    """Last rate of the cosine, for a batch of 512 like optim.base_lr."""
    milestone_shares: tuple[float, ...] = ()
    """Where multistep multiplies the rate by gamma, as shares of the run."""
    milestones: tuple[float, ...] = ()
    """The same in epochs, instead of the shares."""
    gamma: float = 0.1

    def __post_init__(self) -> None:
        epochs, steps = self.warmup_epochs, self.warmup_steps
        if epochs is not None and steps is not None:
            raise ValueError("give at most one of warmup_epochs and warmup_steps (the other one null)")
        if not 0 <= self.warmup_share < 1 or (epochs or 0) < 0 or (steps or 0) < 0:
            raise ValueError(
                "warmup_share lies in [0, 1), and warmup_epochs and warmup_steps are not negative; got"
                f" {self.warmup_share:g}, {epochs} and {steps}"
            )
        if any(not 0 < share < 1 for share in self.milestone_shares) or any(epoch <= 0 for epoch in self.milestones):
            raise ValueError(
                "milestone_shares lie between 0 and 1, milestones (epochs) above 0; got"
                f" {list(self.milestone_shares)} and {list(self.milestones)}"
            )
        if min(self.warmup_lr, self.min_lr) < 0 or not 0 < self.gamma <= 1:
            raise ValueError(
                "warmup_lr and min_lr are not negative, and gamma lies in (0, 1]; got"
                f" {self.warmup_lr:g}, {self.min_lr:g} and {self.gamma:g}"
            )
        stepped = bool(self.milestones or self.milestone_shares)
        if self.kind == "cosine" and stepped:
            raise ValueError("milestones have no effect with kind=cosine; remove them or choose schedule=multistep")
        if self.kind == "multistep" and (not stepped or self.min_lr):
            raise ValueError("kind=multistep needs milestones, and min_lr has no effect there (set it to 0)")


def peak_lr(base_lr: float, global_batch_size: int) -> float:
    """Linear scaling rule of Swin and SimMIM: base_lr is for a batch of 512 (main_simmim_pt.py)."""
    return base_lr * global_batch_size / 512


def warmup_steps(config: ScheduleConfig, total_steps: int, steps_per_epoch: int) -> int:
    """Optimizer steps of the linear warm-up; a share leaves at least one step of the run."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    if config.warmup_epochs is not None:
        return round(config.warmup_epochs * steps_per_epoch)
    return min(round(config.warmup_share * total_steps), total_steps - 1)


def misfits(config: ScheduleConfig, total_steps: int, steps_per_epoch: int) -> list[tuple[str, str]]:
    """What was typed in epochs or steps and does not fit the run, each with the override that goes back to shares."""
    found = []
    warm = warmup_steps(config, total_steps, steps_per_epoch)
    if warm >= total_steps:
        key = "warmup_epochs" if config.warmup_steps is None else "warmup_steps"
        found.append((f"the warm-up ({warm} steps) must be shorter than the run", f"schedule.{key}=null"))
    if config.milestones and round(max(config.milestones) * steps_per_epoch) >= total_steps:
        override = "'schedule.milestones=[]'"
        if not config.milestone_shares:
            override += " 'schedule.milestone_shares=[0.9]'"
        found.append((f"schedule.milestones {list(config.milestones)} lie beyond the run", override))
    return found


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
        ConfigError: what was typed in epochs or steps does not fit the run; see `misfits`.
    """
    if wrong := misfits(config, total_steps, steps_per_epoch):
        problems, overrides = zip(*wrong, strict=True)
        raise ConfigError(
            f"{' and '.join(problems)} of {total_steps} steps ({total_steps / steps_per_epoch:g} epochs). Train longer"
            f" (trainer.max_epochs), or add {' '.join(overrides)}."
        )
    warm = warmup_steps(config, total_steps, steps_per_epoch)
    start, floor = config.warmup_lr / base_lr, config.min_lr / base_lr
    milestones = [round(epoch * steps_per_epoch) for epoch in config.milestones] or [
        round(share * total_steps) for share in config.milestone_shares
    ]

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
