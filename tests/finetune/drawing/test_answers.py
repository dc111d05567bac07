"""Images with truth and answer: a sheet of them, and a row for each in its own proportions, with what colours mean."""

import numpy as np
from made_tasks import made_task
from PIL import Image

from finetune.drawing.answers import draw_answers, draw_rows, in_words

NAMES = ("cat", "dog", "owl")


def test_a_sheet_in_words():
    images = [np.full((20, 40, 3), 200, np.uint8), np.full((30, 10, 1), 40_000, np.uint16)]
    rows = [{"class": "dog", "probability": 0.9}, {"labels": ["a", "b"], "probabilities": [0.5]}]
    sheet = draw_answers(made_task("classify", NAMES), images, [{"class": "cat"}, {"labels": []}], rows)
    assert sheet.width == 2 * 166 + 6
    assert np.asarray(sheet)[86, 86].tolist() == [200] * 3
    assert [in_words(row) for row in rows] == ["dog, 0.9", "a + b"]
    assert in_words({"labels": []}) == "none"
    found = [{"class": name, "score": score} for name, score in (("cat", 0.25), ("dog", 1.0), ("owl", 0.5), ("cat", 0))]
    assert in_words({"objects": found, "mask": None}) == "4 objects: dog, owl 0.50, cat 0.25, ..."
    assert in_words({"objects": [{"class": "cat"}]}) == "1 object: cat"
    assert in_words({"objects": []}) == "no object"


def test_a_task_that_draws_is_drawn():
    task = made_task("classify", NAMES)
    task.draw = lambda image, row: Image.new("RGB", (image.shape[1], image.shape[0]), row["class"])
    sheet = np.asarray(draw_answers(task, [np.zeros((10, 10, 3), np.uint8)], [{"class": "lime"}], [{"class": "red"}]))
    assert sheet[80, 80].tolist() == [0, 0, 0]
    assert sheet[80, 240].tolist() == [0, 255, 0]
    assert sheet[80, 400].tolist() == [255, 0, 0]


def test_a_sheet_says_what_colours_mean():
    task = made_task("segment", ("sky", "sea"))
    row = {"mask": np.ones((40, 60), np.uint8), "classes": ["sea"]}
    sheet = np.asarray(draw_answers(task, [np.zeros((40, 60, 3), np.uint8)], [row], [row]))
    legend = task.legend()
    assert (sheet[-6 - legend.height : -6, 6 : 6 + legend.width] == np.asarray(legend)).all()


def test_a_row_for_each_image_with_its_truth_and_prediction():
    task = made_task("segment", ("sky", "sea"))
    images = [np.full((40, 60, 3), 200, np.uint8), np.full((600, 300, 3), 9, np.uint8)]
    truth = [{"mask": np.ones(image.shape[:2], np.uint8)} for image in images]
    rows = [{"mask": np.full(image.shape[:2], 255, np.uint8)} for image in images]
    picture = np.asarray(draw_rows(task, images, truth, rows, "epoch 1"))
    first = picture[32 : 32 + 160, 6 : 6 + 240]  # enlarged by whole pixels
    assert (first == 200).all()
    assert (picture[32:192, 252:492] == picture[32, 252]).all()
    assert (picture[32, 252] != 200).any()
    assert (picture[32:192, 498:738] == 200).all()
    assert (picture[198 : 198 + 256, 6 : 6 + 128] == 9).all()  # shrunk to 256 px
    assert picture.shape[0] == 32 + 160 + 6 + 256 + 6 + 18 + 6
