"""From settings to a strategy."""

import torch
from lightning.pytorch.strategies import Strategy

from swinmim.checkpoint import zero
from swinmim.errors import ConfigError
from swinmim.training.settings import StrategyConfig
from swinmim.training.strategies.base import Replicated, Single
from swinmim.training.strategies.zero import ZeroStrategy, deepspeed_config


def build_strategy(config: StrategyConfig, *, device: torch.device, bf16: bool, batch_size: int) -> Strategy:
    """The Lightning strategy of a run, which gives the `Answers`.

    device: of a run of one process. bf16: matrix products in bf16; under DeepSpeed this is its own autocast, elsewhere
    Lightning's. batch_size: images per device and forward pass.

    Raises ConfigError: DeepSpeed is not installed.
    """
    match config.kind:
        case "single":
            return Single(device)
        case "ddp":
            return Replicated(gradient_as_bucket_view=True)
        case "deepspeed":
            assert config.zero is not None
            if not zero.is_installed():
                raise ConfigError("strategy=deepspeed_* needs DeepSpeed: pip install 'swinmim[deepspeed]'.")
            return ZeroStrategy(config=deepspeed_config(config.zero, bf16=bf16, batch_size=batch_size))
