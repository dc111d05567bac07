"""How far an exported network differs from ours, on made images of real size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from swinmim.errors import CheckpointError

Outputs = Sequence[Tensor]
Network = Callable[..., Outputs]


@dataclass(frozen=True)
class Parity:
    """The largest difference of any output, as a part of that output's largest value. limit: 0 asks for equality."""

    what: str
    difference: float
    limit: float

    def __str__(self) -> str:
        if not self.limit:
            return f"{self.what}: 0.0 apart"
        return f"{self.what}: {self.difference:.1e} of the largest value (limit {self.limit:.0e})"


def made_images(batch: int, channels: int, resolution: tuple[int, int]) -> Tensor:
    """Normalised noise, (B, C, H, W); the same for every call."""
    return torch.randn(batch, channels, *resolution, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def measure(ours: Network, theirs: Network, *inputs: Any) -> float:
    """The `Parity.difference` of two networks on the same inputs."""
    found = []
    for a, b in zip(ours(*inputs), theirs(*inputs), strict=True):
        if a.shape != b.shape:
            raise CheckpointError(f"The export gives an output of shape {tuple(b.shape)} instead of {tuple(a.shape)}.")
        found.append(((a - b).abs().max() / a.abs().max().clamp_min(1e-12)).item())
    return max(found)


def judge(what: str, difference: float, limit: float) -> Parity:
    """Raises CheckpointError: the difference is no rounding."""
    if not difference <= limit:  # nor is NaN
        raise CheckpointError(
            f"The export is another network than its source: {what} differs by {difference:.1e} of the largest value, "
            f"more than {limit:.0e}. Nothing was written; please report it with the versions of the libraries."
        )
    return Parity(what, difference, limit)


def judge_modules(
    what: str, limit: float, ours: tuple[nn.Module, Network], theirs: tuple[nn.Module, Network], *inputs: Any
) -> Parity:
    """Of two modules of torch and how each is called. Rounding alone may pass the limit in float32, where logit scales
    stand at their clamp; then float64 judges, and the difference in float32 is told.
    """
    (our_module, call_ours), (their_module, call_theirs) = ours, theirs
    difference = measure(call_ours, call_theirs, *inputs)
    if difference > limit:
        our_module.double(), their_module.double()
        wide = [value.double() if value.is_floating_point() else value for value in inputs]
        judge(what, measure(call_ours, call_theirs, *wide), limit)
        our_module.float(), their_module.float()
        return Parity(f"{what}, rounding of float32", difference, limit)
    return judge(what, difference, limit)
