"""Weighted nearest neighbours in the pooled features of a frozen encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from finetune.frozen import Effort, FrozenConfig, FrozenTask, Measured
from swinmim.config import Count, Positive, schema

if TYPE_CHECKING:
    from swinmim.evaluation.features import Features


@schema
class KNNConfig(FrozenConfig):
    kind: Literal["knn"]
    k: Count
    """Neighbours that vote."""
    temperature: Positive
    """A neighbour's vote weighs exp(cosine / temperature)."""


class KNN(FrozenTask[KNNConfig]):
    """The class that the nearest training images vote for; nothing is learnt and nothing chosen."""

    kind = "knn"
    Settings = KNNConfig

    def measure(self, train: Features, val: Features, effort: Effort) -> list[Measured]:
        from swinmim.evaluation.knn import knn_predict

        found = []
        for stage in self.stages:
            vectors, bank = val.pooled[stage].to(effort.device), train.pooled[stage].to(effort.device)
            labels = train.labels.to(effort.device)
            predicted = knn_predict(
                vectors, bank, labels, self.classes, k=self.settings.k, temperature=self.settings.temperature
            )
            right = (predicted.cpu() == val.labels).double().mean()
            found.append(Measured(stage, "knn", float(right), {}))
        return found
