"""Weighted nearest neighbours on normalised vectors (Wu et al., arXiv 1805.01978; k 20 and T 0.07 as DINO's)."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SIMILARITIES = 2**25
"""At a time, 128 MiB."""


def knn_predict(
    vectors: Tensor, bank: Tensor, labels: Tensor, classes: int, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """The class (n,) of each vector (n, C).

    Its k nearest of the bank (m, C), by cosine, vote for their labels (m,), each with weight exp(cosine / temperature).
    A smaller bank votes as a whole.
    """
    vectors, bank = F.normalize(vectors.float()), F.normalize(bank.float())
    k = min(k, len(bank))
    found = []
    for part in torch.split(vectors, max(1, _SIMILARITIES // len(bank))):
        cosine, nearest = (part @ bank.T).topk(k)
        weight = ((cosine - 1) / temperature).exp()  # at most 1: no temperature overflows
        found.append(part.new_zeros(len(part), classes).scatter_add_(1, labels[nearest], weight).argmax(1))
    return torch.cat(found)
