"""How the work is spread over devices."""

from typing import Literal

from lightning.pytorch.strategies import DDPStrategy, Strategy

from swinmim.config import schema


@schema
class StrategyConfig:
    kind: Literal["single", "ddp"]
    """single: one device. ddp: replicas with all-reduced gradients (NCCL on GPUs, gloo on CPUs)."""


def build_strategy(config: StrategyConfig) -> Strategy | str:
    """The Lightning strategy of a run."""
    match config.kind:
        case "single":
            return "auto"
        case "ddp":
            return DDPStrategy(gradient_as_bucket_view=True)
