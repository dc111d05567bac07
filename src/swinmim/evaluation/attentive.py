"""The attentive probe: efficient probing (arXiv 2506.10178).

Each of Q learned queries looks at the tokens themselves (no key projection), and sums one slice of the C channels of
their values; the slices side by side go through batch norm without scale and shift, and a linear layer.

Legend: h heads, B samples, N tokens, C channels, Q queries, D = C / Q, K classes.
"""

import torch
from torch import Tensor, nn

from swinmim.evaluation.heads import Heads, copies
from swinmim.evaluation.linear import first_weights, linear


class AttentiveHeads(Heads):
    """Tokens (B, N, C) -> logits (h, B, K). Raises ValueError where the queries do not divide the channels."""

    def __init__(self, count: int, channels: int, classes: int, queries: int = 32, seed: int = 0) -> None:
        super().__init__(count)
        if channels % queries:
            raise ValueError(f"{queries} queries do not divide {channels} channels")
        self.channels, self.queries = channels, queries
        self.query = copies(first_weights((queries, channels), seed, 0.02), count)
        self.value = copies(
            first_weights((queries, channels // queries, channels), seed + 1, (3 * channels) ** -0.5), count
        )
        self.norm = nn.BatchNorm1d(count * channels, affine=False)
        self.weight = copies(first_weights((classes, channels), seed + 2), count)
        self.bias = copies(torch.zeros(classes), count)

    def forward(self, features: Tensor) -> Tensor:
        pooled_BhC = self.pool(features).transpose(0, 1)
        normed_hBC = self.norm(pooled_BhC.flatten(1)).view(pooled_BhC.shape).transpose(0, 1)
        return linear(normed_hBC, self.weight, self.bias)

    def pool(self, tokens_BNC: Tensor) -> Tensor:
        """(h, B, C). The tokens are summed before they become values: the same, at a fraction of the work."""
        query_hQC, value_hQDC = torch.stack(list(self.query)), torch.stack(list(self.value))
        attention_hBQN = (query_hQC[:, None] * self.channels**-0.5 @ tokens_BNC.transpose(1, 2)).softmax(-1)
        seen_hBQC = attention_hBQN @ tokens_BNC
        return torch.einsum("hbqc,hqdc->hbqd", seen_hBQC, value_hQDC).flatten(2)
