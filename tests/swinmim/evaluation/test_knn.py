"""Nearest neighbours against scikit-learn, which knows weights of any kind."""

import numpy as np
import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier

from swinmim.evaluation import knn
from swinmim.evaluation.knn import knn_predict


def reference(vectors, bank, labels, k, temperature):
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (vectors.double().numpy(), bank.double().numpy())]
    model = KNeighborsClassifier(k, metric="cosine", weights=lambda far: np.exp((1 - far) / temperature))
    return torch.from_numpy(model.fit(unit[1], labels.numpy()).predict(unit[0]))


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (20, 1.0), (60, 0.2)])
def test_votes_are_those_of_scikit_learn(k, temperature):
    generator = torch.Generator().manual_seed(k)
    vectors, bank = torch.randn(40, 6, generator=generator), torch.randn(60, 6, generator=generator)
    labels = torch.randint(4, (60,), generator=generator)
    found = knn_predict(vectors, bank, labels, 4, k=k, temperature=temperature)
    assert torch.equal(found, reference(vectors, bank, labels, k, temperature))
    assert len(set(found.tolist())) > 1


def test_chunks_change_nothing(monkeypatch):
    vectors, bank, labels = torch.randn(7, 5), torch.randn(30, 5), torch.arange(30) % 3
    whole = knn_predict(vectors, bank, labels, 3)
    monkeypatch.setattr(knn, "_SIMILARITIES", 60)
    assert torch.equal(knn_predict(vectors, bank, labels, 3), whole)


def test_length_does_not_matter_a_small_bank_votes_whole_and_a_low_temperature_is_finite():
    bank, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([2, 0])
    vectors = torch.tensor([[1e-3, 1e-4], [5.0, 60.0]])
    assert knn_predict(vectors, bank, labels, 3, temperature=1e-4).tolist() == [2, 0]
