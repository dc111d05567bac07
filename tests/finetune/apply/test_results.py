"""Answers become files: tables, names below a folder, masks, detections."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from finetune.apply.results import Beside, Detections, Table, flat, run_lengths, save_mask


def test_an_answer_becomes_columns():
    row = {
        "class": "cat",
        "probability": 0.5,
        "top": [{"class": "cat", "probability": 0.5}, {"class": "dog", "probability": 0.25}],
        "mask": np.zeros((2, 2)),
        "objects": [{}, {}],
        "labels": ["a", "b"],
    }
    assert flat(row) == {
        "class": "cat",
        "probability": 0.5,
        "top1_class": "cat",
        "top1_probability": 0.5,
        "top2_class": "dog",
        "top2_probability": 0.25,
        "objects": 2,
        "labels": ["a", "b"],
    }


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables(tmp_path, kind):
    rows = [{"path": "a, b.jpg", "labels": ["x", "y"], "p": 0.1}, {"path": "c.jpg", "labels": [], "p": 1e-9}]
    with Table(tmp_path, "predictions", kind) as table:
        for row in rows:
            table.add(row)
    if kind == "parquet":
        from pyarrow import parquet

        assert parquet.read_table(tmp_path / "predictions.parquet").to_pylist() == rows
    else:
        with (tmp_path / "predictions.csv").open(newline="") as file:
            found = list(csv.DictReader(file))
        assert [row["path"] for row in found] == ["a, b.jpg", "c.jpg"]
        assert [row["labels"] for row in found] == ["x|y", ""]
        assert [float(row["p"]) for row in found] == [0.1, 1e-9]


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["a/b.jpg", "a/c.png"], ["a/b.png", "a/c.png"]),
        (["a.jpg", "a.png", "a.webp"], ["a.png", "a.2.png", "a.3.png"]),
        (["../../etc/x.jpg"], ["etc/x.png"]),
        (["/abs/x.jpg"], ["abs/x.png"]),
        (["..", ""], ["image.png", "image.2.png"]),
        (["digit-0001"], ["digit-0001.png"]),
        (["a.2.jpg", "a.jpg", "a.png"], ["a.2.png", "a.png", "a.3.png"]),
    ],
)
def test_names_stay_below_their_folder_and_apart(tmp_path, names, places):
    beside = Beside(tmp_path)
    assert [beside.path(name, ".png").relative_to(tmp_path).as_posix() for name in names] == places


def test_masks(tmp_path):
    mask = np.array([[0, 1], [7, 255]], np.uint8)
    save_mask(tmp_path / "m.png", mask)
    with Image.open(tmp_path / "m.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.array(image), mask)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (70, 90)])
def test_run_lengths_are_those_of_the_coco_tools(shape, share):
    tools = pytest.importorskip("faster_coco_eval.core.mask")
    mask = np.random.default_rng(0).random(shape) < share
    found = run_lengths(mask)
    expected = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts = expected["counts"]
    assert found["counts"] == (counts.decode() if isinstance(counts, bytes) else counts)
    assert found["size"] == list(shape)


def test_detections_are_results_of_coco(tmp_path):
    found = Detections(tmp_path, ("cat", "dog"))
    found.add("a.jpg", (20, 30), [{"class": "dog", "score": 0.9, "bbox": [1, 2, 3, 4]}])
    found.add("b.jpg", (5, 5), [])
    found.write()
    told = json.loads((tmp_path / "images.json").read_text())
    assert told["images"][1] == {"id": 2, "file_name": "b.jpg", "height": 5, "width": 5}
    assert told["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert json.loads((tmp_path / "detections.json").read_text()) == [
        {"image_id": 1, "category_id": 2, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.9}
    ]
