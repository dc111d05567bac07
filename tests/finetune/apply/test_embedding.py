"""The command embed: rows in the order of the paths, features of any stage, neighbours by cosine."""

import numpy as np
import pytest
import torch
from made_tasks import made_encoder
from PIL import Image

import swinmim
from finetune.apply import embedding
from finetune.apply.config import EmbedConfig
from swinmim.checkpoint.encoder import save_encoder
from swinmim.composition import check
from swinmim.errors import ConfigError, DataError

SMALL = ("trainer.accelerator=cpu", "trainer.precision=32-true", "data.num_workers=0", "batch_size=2")
NAMES = ["a.png", "b/a.png", "b/b.png", "c.png"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(made_encoder(), tmp_path_factory.mktemp("model") / "encoder")


@pytest.fixture
def images(tmp_path):
    rng = np.random.default_rng(0)
    for name in NAMES:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


@pytest.fixture
def embed(folder, tmp_path):
    def run(path, *overrides):
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        line = [f"ckpt={folder}", f"data.path={path}", f"output_dir={out}", *SMALL, *overrides]
        embedding.run(check("embed", EmbedConfig, line), out)
        return out

    return run


def slowly(folder, images, stage):
    encoder, make = swinmim.load_encoder(folder).eval(), swinmim.preprocess(folder)
    with torch.no_grad():
        each = [make(images / name)[None] for name in NAMES]
        maps = [encoder.features(image)[stage - 1].mean((2, 3)) for image in each]
        return torch.cat([encoder.pool(image) for image in each] if stage == 2 else maps).numpy()


@pytest.mark.parametrize("stage", [1, 2])
def test_features_are_those_of_the_encoder(embed, folder, images, stage):
    out = embed(images, f"stage={stage}")
    np.testing.assert_allclose(np.load(out / "embeddings.npy"), slowly(folder, images, stage), atol=1e-5)
    assert (out / "paths.txt").read_text().splitlines() == NAMES
    with Image.open(out / "neighbours.png") as picture:
        assert picture.width > 4 * 128


def test_the_last_stage_is_the_default_and_parquet_has_the_paths(embed, folder, images):
    from pyarrow import parquet

    (images / "broken.png").write_bytes(b"nothing")
    out = embed(images, "format=parquet", "queries=0")
    table = parquet.read_table(out / "embeddings.parquet").to_pydict()
    assert table["path"] == NAMES
    np.testing.assert_allclose(table["feature"], slowly(folder, images, 2), atol=1e-5)
    assert not (out / "neighbours.png").exists()
    assert "broken.png" in (out / "damaged.csv").read_text()


def test_one_image_has_no_neighbours(embed, images, tmp_path):
    (tmp_path / "list.csv").write_text("path\nimages/a.png\n")
    out = embed(tmp_path / "list.csv")
    assert np.load(out / "embeddings.npy").shape == (1, 32)
    assert not (out / "neighbours.png").exists()


def test_neighbours_are_the_largest_cosines():
    features = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    slow = sorted((row for row in range(9) if row != 3), key=lambda row: -float(unit[row] @ unit[3]))
    rows, cosines = embedding.nearest(features, 3, 4)
    assert rows == slow[:4]
    np.testing.assert_allclose(cosines, [unit[row] @ unit[3] for row in rows], atol=1e-5)
    assert len(embedding.nearest(features, 0, 50)[0]) == 8


def test_a_stage_that_there_is_not(embed, images):
    with pytest.raises(ConfigError, match="has the stages 1 to 2, got stage=3"):
        embed(images, "stage=3")


def test_images_of_other_channels(tmp_path, images):
    five = save_encoder(swinmim.create_encoder("swinv2_demo", resolution=32, in_chans=5), tmp_path / "five")
    line = [f"ckpt={five}", f"data.path={images}", f"output_dir={tmp_path}", *SMALL]
    with pytest.raises(DataError, match=r"None of the 4 images can be read.*images have 1 or 3 channels.*wants 5"):
        embedding.run(check("embed", EmbedConfig, line), tmp_path)
