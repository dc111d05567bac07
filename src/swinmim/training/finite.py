"""Is a step worth taking? Decided on the device, so that the host never waits for it. Pure maths.

The finite check costs no collective of its own: a non-finite loss makes its gradients non-finite, the ranks' gradients
are summed anyway, and so every rank sees the same non-finite norm.
"""

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor


def poison(loss: Tensor) -> Tensor:
    """The loss, whose gradients are all NaN where it is not finite, and bit for bit the same where it is.

    Without this, |x - inf| has an infinite loss and a gradient of one.
    """
    return loss * (loss.detach() * 0 + 1)


class FiniteGuard:
    """Counts non-finite optimizer steps, and says which steps the optimizer must not take. Nothing here waits.

    limit: so many in a row end the run; from then on no step is taken, however long the host needs to see it.
    """

    def __init__(self, limit: float = math.inf) -> None:
        self.limit = limit
        self.total = 0.0
        """Non-finite steps so far, for a resumed run."""
        self.state: tuple[Tensor, Tensor, Tensor] | None = None
        """Of the newest step: whether it was non-finite, how many in a row, how many in all; () float32 each."""
        self.norm: Tensor | None = None
        """Of the newest step."""

    def judge(self, norm: Tensor) -> Tensor:
        """Judge one optimizer step by its gradient norm over all ranks.

        norm: () floating; negative is non-finite too (DeepSpeed's way to say so). Returns () float32, 1 where the step
        must be skipped: what `AdamW(fused=True).found_inf` takes.
        """
        bad = (~(torch.isfinite(norm) & (norm >= 0))).float()
        if self.state is None:
            in_a_row, total = torch.zeros_like(bad), torch.full_like(bad, self.total)
        else:
            _, in_a_row, total = self.state
        in_a_row = torch.where(in_a_row >= self.limit, in_a_row, (in_a_row + 1) * bad)
        self.state, self.norm = (bad, in_a_row, total + bad), norm.detach()
        return torch.maximum(bad, (in_a_row >= self.limit).float())


def is_spike(loss: float, history: Sequence[float], threshold: float) -> bool:
    """Whether a loss lies more than `threshold` robust standard deviations above the median of the ones before it.

    The deviation is 1.4826 x the median absolute deviation, and at least 1e-3 of the median, for flat curves.
    """
    middle = statistics.median(history)
    deviation = 1.4826 * statistics.median(abs(value - middle) for value in history)
    return loss > middle + threshold * max(deviation, 1e-3 * abs(middle))
