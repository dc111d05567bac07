"""Pictures of predictions: a row for each image, in its own proportions, and what the colours mean."""

from typing import Any

import numpy as np
import pytest
import torch
from made_tasks import made_task

from finetune.pictures import draw_rows, first_of


def test_a_row_for_each_image_with_its_truth_and_prediction():
    task = made_task("segment", ("sky", "sea"))
    images = [np.full((40, 60, 3), 200, np.uint8), np.full((600, 300, 3), 9, np.uint8)]
    truth = [{"mask": np.ones(image.shape[:2], np.uint8)} for image in images]
    rows = [{"mask": np.full(image.shape[:2], 255, np.uint8)} for image in images]
    picture = np.asarray(draw_rows(task, images, truth, rows, "epoch 1"))
    first = picture[32 : 32 + 80, 4 : 4 + 120]  # enlarged by whole pixels
    assert (first == 200).all()
    assert (picture[32:112, 136:256] == picture[32, 136]).all()
    assert (picture[32, 136] != 200).any()
    assert (picture[32:112, 268:388] == 200).all()
    assert (picture[116 : 116 + 256, 4 : 4 + 128] == 9).all()  # shrunk to 256 px
    assert picture.shape[0] == 32 + 80 + 4 + 256 + 4 + 18 + 4


@pytest.mark.parametrize("native", [True, False])
def test_the_first_samples_of_a_batch(native):
    images = [torch.zeros(2, n + 1, 3) for n in range(4)] if native else torch.zeros(4, 2, 2, 3)
    made: Any = {"image": images, "valid": torch.ones(4, dtype=torch.bool)}
    batch = first_of(made, 3)
    assert [len(value) for value in batch.values()] == [3, 3]
