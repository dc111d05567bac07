"""What the modules and the answers to faults ask of a strategy, and the answers of those that keep networks whole."""

from collections.abc import Callable
from typing import Protocol

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn


class Answers(Protocol):
    """Every strategy of ours answers these, so that nobody asks what kind it is."""

    def clips(self) -> bool:
        """Whether it clips gradients, and passes over steps whose norm is not finite, by itself."""

    def grad_norm(self) -> float | None:
        """Norm of the last optimizer step before its own clipping; None before the first, and without any."""

    def full_weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The state dict of a network, gathered on rank 0 where it is partitioned; all ranks must call it.

        Returns:
            name -> tensor; where it is partitioned on the CPU, and empty on the other ranks.
        """

    def materialise(self, network: nn.Module, build: Callable[[], nn.Module]) -> None:
        """Give a network on the meta device its memory and its first weights.

        Args:
            network: all of it on the meta device.
            build: makes its twin with the first weights.
        """

    def goes_back(self) -> bool:
        """Whether weights and optimizer can be set back to a checkpoint within a run."""


class Whole:
    """The answers of a strategy under which every rank holds the whole network and Lightning's module clips."""

    def clips(self) -> bool:
        return False

    def grad_norm(self) -> float | None:
        return None

    def full_weights(self, network: nn.Module) -> dict[str, Tensor]:
        return network.state_dict()

    def materialise(self, network: nn.Module, build: Callable[[], nn.Module]) -> None:
        network.to_empty(device="cpu").load_state_dict(build().state_dict())

    def goes_back(self) -> bool:
        return True


class Single(Whole, SingleDeviceStrategy):
    """One process, one device."""


class Replicated(Whole, DDPStrategy):
    """DDP: replicas with all-reduced gradients."""
