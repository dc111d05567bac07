"""What the modules and the answers to faults ask of a strategy, and the answers of those that keep networks whole."""

from collections.abc import Callable

from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn


class Answers:
    """Every strategy of ours answers these, so that nobody asks what kind it is.

    Here for one under which every rank holds the whole network and Lightning's module clips.
    """

    def clips(self) -> bool:
        """Whether it clips gradients, and passes over steps whose norm is not finite, by itself."""
        return False

    def grad_norm(self) -> float | None:
        """Norm of the last optimizer step before its own clipping; None before the first, and without any."""
        return None

    def full_weights(self, network: nn.Module) -> dict[str, Tensor]:
        """The state dict of a network; where it is partitioned, on the CPU, and empty on all ranks but 0.

        All ranks must call it.
        """
        return network.state_dict()

    def materialise(self, network: nn.Module, build: Callable[[], nn.Module]) -> None:
        """Give a network that is all on the meta device its memory, and the first weights of the twin `build` makes."""
        network.to_empty(device="cpu").load_state_dict(build().state_dict())

    def goes_back(self) -> bool:
        """Whether weights and optimizer can be set back to a checkpoint within a run."""
        return True


class Single(Answers, SingleDeviceStrategy):
    """One process, one device."""


class Replicated(Answers, DDPStrategy):
    """DDP: replicas with all-reduced gradients."""
