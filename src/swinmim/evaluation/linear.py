"""The linear probe: batch norm without scale and shift, then one linear layer (MAE, arXiv 2111.06377, appendix A)."""

import torch
from torch import Tensor, nn

from swinmim.evaluation.heads import Heads, copies


class LinearHeads(Heads):
    """Vectors (B, C) -> logits (h, B, K); the norm is the same for all heads, as their input is."""

    def __init__(self, count: int, channels: int, classes: int, seed: int = 0) -> None:
        super().__init__(count)
        self.norm = nn.BatchNorm1d(channels, affine=False)
        self.weight = copies(first_weights((classes, channels), seed), count)
        self.bias = copies(torch.zeros(classes), count)

    def forward(self, features: Tensor) -> Tensor:
        return linear(self.norm(features), self.weight, self.bias)


def first_weights(shape: tuple[int, ...], seed: int, std: float = 0.01) -> Tensor:
    """Normal, of this deviation."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def linear(x: Tensor, weight: nn.ParameterList, bias: nn.ParameterList) -> Tensor:
    """A linear layer of each head: (B, C) for all, or (h, B, C) -> (h, B, K)."""
    weight_hKC, bias_hK = torch.stack(list(weight)), torch.stack(list(bias))
    return x @ weight_hKC.transpose(1, 2) + bias_hK[:, None]
