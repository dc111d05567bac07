"""The command predict on a small model: every kind of answer becomes its files, and nothing stops for one image."""

import csv
import json

import numpy as np
import pytest
from made_tasks import made_encoder, made_task
from PIL import Image

from data.sources.folder import read_folder
from data.write.writer import WriteOptions, write_shards
from finetune.apply import prediction
from finetune.apply.config import PredictConfig
from finetune.model import TaskModel
from finetune.tasks.classify import Classify
from finetune.tasks.registry import TASKS
from swinmim.checkpoint.task_model import save_task_model
from swinmim.composition import check
from swinmim.errors import ConfigError

CLASSES = ("cat", "dog", "owl")
SMALL = ("trainer.accelerator=cpu", "trainer.precision=32-true", "data.num_workers=0", "batch_size=2")


class Drawn(Classify):
    """Answers with a mask, objects and the likeliest, in the size of the image, and draws them."""

    def predict(self, output, batch):
        rows = super().predict(output, batch)
        for row, (height, width) in zip(rows, batch["size"].tolist(), strict=True):
            row["top"] = [{"class": row["class"], "probability": row["probability"]}]
            row["mask"] = np.full((height, width), 2, np.uint8)
            row["objects"] = [
                {"class": "dog", "score": 0.5, "bbox": [0, 0, 2, 3], "mask": np.ones((height, width), bool)}
            ]
        return rows

    def draw(self, image_HWC, row):
        return Image.fromarray(255 - image_HWC)

    def legend(self):
        return Image.new("RGB", (7, 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    task = made_task("classify", CLASSES)
    network = TaskModel(made_encoder(), task).eval()
    folder = tmp_path_factory.mktemp("model") / "encoder"
    save_task_model(network.encoder, folder, network.state_dict(), {"task": task.recorded()})
    return folder


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for number, name in enumerate(("x/1.png", "x/2.jpg", "y/1.png", "y/3.png", "y/4.png")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + number, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def predict(folder, tmp_path):
    def run(path, *overrides):
        out = tmp_path / "out"
        out.mkdir()
        line = [f"ckpt={folder}", f"data.path={path}", f"output_dir={out}", *SMALL, *overrides]
        prediction.run(check("predict", PredictConfig, line), out)
        return out

    return run


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_classes_of_any_folder(predict, images, caplog):
    (images / "y" / "2.png").write_bytes(b"nothing")
    with caplog.at_level("INFO"):
        out = predict(images)
    found = rows(out / "predictions.csv")
    assert [row["path"] for row in found] == ["x/1.png", "x/2.jpg", "y/1.png", "y/3.png", "y/4.png"]
    assert {row["class"] for row in found} <= set(CLASSES)
    assert [row["path"] for row in rows(out / "damaged.csv")] == ["y/2.png"]
    assert sorted(path.name for path in out.iterdir()) == ["damaged.csv", "predictions.csv"]
    told = [record.getMessage() for record in caplog.records]
    assert [text for text in told if "labels" in text] == [text for text in told if "are not read: predict" in text]
    assert len([text for text in told if "are not read" in text]) == 1
    assert "5 images: predictions.csv in" in told[-1]
    assert "1 could not be read: y/2.png (not an image" in told[-1]


def test_masks_objects_and_overlays(predict, images, monkeypatch):
    monkeypatch.setitem(TASKS, "classify", Drawn)
    out = predict(images)
    found = rows(out / "predictions.csv")
    assert [row["mask"] for row in found] == [
        f"masks/{name}" for name in ("x/1.png", "x/2.png", "y/1.png", "y/3.png", "y/4.png")
    ]
    assert [row["objects"] for row in found] == ["1"] * 5
    assert found[0]["top1_class"] == found[0]["class"]
    assert (out / "classes.txt").read_text() == "cat\ndog\nowl\n"
    with Image.open(out / "legend.png") as legend:
        assert legend.size == (7, 5)
    with Image.open(out / "masks" / "x" / "2.png") as mask:
        assert mask.size == (30, 21)
    assert len(list((out / "overlays").rglob("*.png"))) == 5
    with Image.open(images / "x" / "1.png") as image, Image.open(out / "overlays" / "x" / "1.png") as drawn:
        np.testing.assert_array_equal(np.array(drawn), 255 - np.array(image))
    detections = json.loads((out / "detections.json").read_text())
    assert [one["image_id"] for one in detections] == [1, 2, 3, 4, 5]
    assert detections[1]["segmentation"]["size"] == [21, 30]
    assert [one["height"] for one in json.loads((out / "images.json").read_text())["images"]] == [20, 21, 22, 23, 24]


def test_no_overlays_where_none_are_asked_for(predict, images, monkeypatch):
    monkeypatch.setitem(TASKS, "classify", Drawn)
    assert not (predict(images, "overlays=false") / "overlays").exists()


def test_a_shard_set_a_list_and_a_tar_are_read_as_they_lie(folder, images, tmp_path):
    write_shards(read_folder(images), tmp_path / "shards", WriteOptions(resize=None, workers=1))
    (tmp_path / "list.csv").write_text("path\nimages/y/1.png\nimages/x/1.png\n")
    tar = next((tmp_path / "shards").glob("*.tar"))
    paths = {"shards": 5, "list.csv": 2, f"shards/{tar.name}": 5}
    for number, (name, count) in enumerate(paths.items()):
        out = tmp_path / f"out{number}"
        out.mkdir()
        line = [f"ckpt={folder}", f"data.path={tmp_path / name}", f"output_dir={out}", *SMALL, "table=parquet"]
        prediction.run(check("predict", PredictConfig, line), out)
        from pyarrow import parquet

        assert len(parquet.read_table(out / "predictions.parquet")) == count


def test_several_processes_are_refused(predict, images, monkeypatch):
    monkeypatch.setattr(prediction, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="predict works with one process, and 2 were started"):
        predict(images)
