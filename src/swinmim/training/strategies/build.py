"""From settings to a strategy."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch import Tensor, nn

from swinmim.checkpoint import zero
from swinmim.errors import ConfigError
from swinmim.training.settings import StrategyConfig
from swinmim.training.strategies.zero import ZeroStrategy, deepspeed_config


def build_strategy(config: StrategyConfig, *, bf16: bool, batch_size: int) -> Strategy | str:
    """The Lightning strategy of a run.

    Args:
        config: its settings.
        bf16: matrix products in bf16; under DeepSpeed this is its own autocast, elsewhere Lightning's.
        batch_size: images per device and forward pass.

    Raises:
        ConfigError: DeepSpeed is not installed.
    """
    match config.kind:
        case "single":
            return "auto"
        case "ddp":
            return DDPStrategy(gradient_as_bucket_view=True)
        case "deepspeed":
            assert config.zero is not None
            if not zero.is_installed():
                raise ConfigError("strategy=deepspeed_* needs DeepSpeed: pip install 'swinmim[deepspeed]'.")
            return ZeroStrategy(config=deepspeed_config(config.zero, bf16=bf16, batch_size=batch_size))


def full_weights(strategy: Strategy, network: nn.Module) -> dict[str, Tensor]:
    """The state dict of a network, gathered on rank 0 where the strategy has partitioned it; all ranks must call it.

    Returns:
        name -> tensor; under ZeRO-3 on the CPU, and empty on the other ranks.
    """
    if not (isinstance(strategy, ZeroStrategy) and strategy.zero_stage_3):
        return network.state_dict()
    import deepspeed

    state: dict[str, Tensor] = {}
    for name, value in network.state_dict(keep_vars=True).items():
        with deepspeed.zero.GatheredParameters([value], enabled=isinstance(value, nn.Parameter)):
            if strategy.is_global_zero:
                state[name] = value.detach().cpu().clone()
    return state
