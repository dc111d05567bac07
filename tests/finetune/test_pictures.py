"""Which samples the pictures of predictions show."""

from typing import Any

import pytest
import torch

from finetune.pictures import first_of


@pytest.mark.parametrize("native", [True, False])
def test_the_first_samples_of_a_batch(native):
    images = [torch.zeros(2, n + 1, 3) for n in range(4)] if native else torch.zeros(4, 2, 2, 3)
    made: Any = {"image": images, "valid": torch.ones(4, dtype=torch.bool)}
    batch = first_of(made, 3)
    assert [len(value) for value in batch.values()] == [3, 3]
