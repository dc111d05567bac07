"""Many heads over the same features in one pass, told apart by their rates.

Legend: h heads, B samples, C channels, K classes.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Heads(nn.Module):
    """h heads of one kind with equal first weights, each with parameters of its own."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Features of B samples -> logits (h, B, K)."""

    def parameters_of(self, head: int) -> list[nn.Parameter]:
        """Those of one head."""
        lists = [module for module in self.modules() if isinstance(module, nn.ParameterList)]
        return [parameters[head] for parameters in lists]


class HeadScore(NamedTuple):
    """Of one head: share of right answers, and mean cross-entropy."""

    top1: float
    loss: float


def copies(first: Tensor, count: int) -> nn.ParameterList:
    """So many parameters that begin alike."""
    return nn.ParameterList(nn.Parameter(first.clone()) for _ in range(count))


def train_heads(
    heads: Heads,
    features: Tensor,
    labels: Tensor,
    rates: Sequence[float],
    *,
    samples: Tensor,
    epochs: int,
    batch_size: int,
    seed: int,
    device: torch.device | str = "cpu",
) -> None:
    """Train all heads on the same batches, each at its rate, in place; the heads are left in eval mode.

    AdamW without weight decay, a tenth of the steps of warm-up, then a cosine to 0. Batches are of one size, so up to
    batch_size - 1 samples wait for the next epoch. features: (n, ...). labels: (n,). samples: int64, the places of
    those that take part, at least 2 (batch norm); batch_size at least 2.
    """
    batch_size = min(batch_size, len(samples))
    per_epoch = len(samples) // batch_size
    total = epochs * per_epoch
    heads.to(device).train()
    groups = [{"params": heads.parameters_of(head), "lr": rate} for head, rate in enumerate(rates)]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_factor(step, total))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = samples[torch.randperm(len(samples), generator=generator)[: per_epoch * batch_size]]
        for chosen in torch.split(order, batch_size):
            logits_hBK = heads(features[chosen].to(device).float())
            target = labels[chosen].to(device).expand(heads.count, -1)
            optimizer.zero_grad()
            loss = F.cross_entropy(logits_hBK.flatten(0, 1), target.flatten(), reduction="sum") / batch_size
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    heads.eval()


def rate_factor(step: int, total: int) -> float:
    """Share of the peak rate at a step: a line up over the first tenth, then half a cosine."""
    warmup = max(1, total // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


@torch.no_grad()
def score_heads(
    heads: Heads, features: Tensor, labels: Tensor, *, batch_size: int, device: torch.device | str = "cpu"
) -> list[HeadScore]:
    """How good each head is on samples (n, ...) with labels (n,), n at least 1; heads in eval mode."""
    right, loss = torch.zeros(heads.count, dtype=torch.float64), torch.zeros(heads.count, dtype=torch.float64)
    for values, label in zip(torch.split(features, batch_size), torch.split(labels, batch_size), strict=True):
        logits_hBK = heads(values.to(device).float()).cpu()
        target = label.expand(heads.count, -1)
        right += (logits_hBK.argmax(2) == target).sum(1)
        loss += F.cross_entropy(logits_hBK.transpose(1, 2), target, reduction="none").sum(1)
    return [
        HeadScore(*pair) for pair in zip((right / len(labels)).tolist(), (loss / len(labels)).tolist(), strict=True)
    ]


def best_of(scores: Sequence[HeadScore]) -> int:
    """The head with most right answers; of equal ones that of the lowest loss, which must be finite."""
    return max(range(len(scores)), key=lambda head: (scores[head].top1, -_finite(scores[head].loss)))


def _finite(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
