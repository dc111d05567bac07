"""A model called from Python: pictures of any kind, the view of evaluation, and errors that say what to give."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from made_tasks import made_encoder, made_module, made_task
from PIL import Image

import swinmim
from finetune.apply.files import batch_of
from finetune.model import TaskModel
from swinmim.checkpoint.encoder import load_encoder, save_encoder
from swinmim.checkpoint.task_model import save_task_model
from swinmim.errors import CheckpointError, ConfigError, DataError

CLASSES = ("cat", "dog", "owl")
MANIFEST = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    task = made_task("classify", CLASSES, crop_ratio=0.8)
    network = TaskModel(made_encoder(), task).eval()
    folder = tmp_path_factory.mktemp("model") / "encoder"
    told = {"task": task.recorded(), "evaluation": task.evaluation(), **MANIFEST}
    save_task_model(network.encoder, folder, network.state_dict(), told)
    return folder, network, task


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def expected(network, task, pixels):
    seen, _ = task.views((32, 32))[1](pixels, None, 0)
    mean, std = (torch.tensor(MANIFEST[name]) for name in ("mean", "std"))
    image = (seen.float() / 255 - mean) / std
    with torch.no_grad():
        return image, network(image.permute(2, 0, 1)[None]).softmax(1)[0]


def test_the_answer_is_that_of_the_network(model, pixels, tmp_path):
    folder, network, task = model
    _, probability = expected(network, task, pixels)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    predictor = swinmim.load_model(folder)
    assert predictor.classes == CLASSES
    rows = predictor.predict([Image.fromarray(pixels), tmp_path / "x.png", str(tmp_path / "x.png"), pixels], 3)
    assert len(rows) == 4
    for row in rows:
        assert row["class"] == CLASSES[int(probability.argmax())]
        assert row["probability"] == pytest.approx(float(probability.max()), abs=1e-6)
    assert predictor.predict([]) == []


def test_another_resolution(model, pixels):
    predictor = swinmim.load_model(model[0], resolution=64)
    assert predictor.resolution == (64, 64)
    assert predictor.predict([pixels])[0]["class"] in CLASSES
    with pytest.raises(ConfigError, match="Nearest legal resolutions"):
        swinmim.load_model(model[0], resolution=33)


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA", "1", "CMYK"])
def test_pillow_of_any_mode(model, pixels, mode):
    picture = Image.fromarray(pixels).convert(mode)
    assert swinmim.load_model(model[0]).predict([picture])[0].keys() == {"class", "probability", "top"}


def test_pictures_are_turned_upright(model, pixels, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
    make = swinmim.preprocess(model[0])
    with Image.open(tmp_path / "turned.png") as picture:
        torch.testing.assert_close(make(picture), make(np.rot90(pixels, -1)), rtol=0, atol=0)
    torch.testing.assert_close(make(tmp_path / "turned.png"), make(np.rot90(pixels, -1)), rtol=0, atol=0)


def test_preprocess_is_what_a_run_does(model, pixels):
    folder, network, task = model
    image_HWC, _ = expected(network, task, pixels)
    made = swinmim.preprocess(folder)(Image.fromarray(pixels))
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, image_HWC.permute(2, 0, 1), rtol=0, atol=1e-6)
    module = made_module(task)
    module.mean, module.std = torch.tensor(MANIFEST["mean"]), torch.tensor(MANIFEST["std"])
    seen, _ = task.views((32, 32))[1](pixels, None, 0)
    torch.testing.assert_close(module.prepare(batch_of([seen], [(40, 50)], [0], native=False))[0], made, rtol=0, atol=0)


def test_preprocess_of_an_encoder_has_its_size(model, pixels):
    encoder = load_encoder(model[0], resolution=64)
    assert swinmim.preprocess(encoder)(pixels).shape == (3, 64, 64)
    assert swinmim.preprocess(encoder, resolution=32)(pixels).shape == (3, 32, 32)
    assert swinmim.preprocess(model[0], resolution=[32, 64])(pixels).shape == (3, 32, 64)
    assert encoder.pool(swinmim.preprocess(encoder)(pixels)[None]).shape == (1, 32)


def test_preprocess_without_a_normalisation(model):
    with pytest.raises(ConfigError, match="this one was made"):
        swinmim.preprocess(made_encoder())
    with pytest.raises(ConfigError, match="takes 1 channels, and the folder"):
        swinmim.preprocess(load_encoder(model[0], in_chans=1))


def test_what_is_no_picture(model, tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    predictor = swinmim.load_model(model[0])
    for image, message in (
        (tmp_path / "x.jpg", r"x\.jpg cannot be read: not an image"),
        (tmp_path / "gone.jpg", r"gone\.jpg cannot be read"),
        (np.zeros((4, 4)), r"uint8 or uint16 \(H, W, 3\), got float64 \(4, 4\)"),
        (np.zeros((4, 4, 1), np.uint8), r"got uint8 \(4, 4, 1\)"),
    ):
        with pytest.raises(DataError, match=message):
            predictor.predict([image])
    with pytest.raises(TypeError, match=r"takes a list of images, got one PosixPath\. Write \[image\]"):
        predictor.predict(tmp_path / "x.jpg")


def test_an_encoder_answers_nothing(tmp_path):
    folder = save_encoder(made_encoder(), tmp_path / "encoder")
    with pytest.raises(CheckpointError, match="without a head"):
        swinmim.load_model(folder)


@pytest.mark.slow
def test_it_needs_neither_hydra_nor_lightning():
    code = "import sys, swinmim; swinmim.load_model, swinmim.preprocess; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "finetune.apply.predictor" in loaded
    assert {"lightning", "wandb", "deepspeed"}.isdisjoint(loaded)
    assert [name for name in loaded if name.startswith("hydra")] == []
