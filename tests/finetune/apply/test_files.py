"""Images as they lie: order, damage, channels, and batches as the loaders of runs make them."""

import numpy as np
import pytest
import torch
from made_clips import encode_clip, grey_frames, provide_ffmpeg
from PIL import Image

from data.config import DecodingConfig
from data.loading.views import CenterCrop
from data.sources.folder import read_folder
from data.write.writer import WriteOptions, write_shards
from finetune.apply.files import open_images, read
from finetune.heads.clips import FramesView
from swinmim.errors import ConfigError, DataError

HOW = DecodingConfig(num_workers=0)
VIEW = CenterCrop((16, 16), 1.0)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("b/2.png", "a/1.jpg", "c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def test_the_order_is_that_of_the_paths(folder):
    images = open_images(str(folder), HOW, channels=3)
    assert images.names == ["a/1.jpg", "b/2.png", "c.png"]
    found = list(read(images, VIEW, 2))
    assert [part.positions for part in found] == [[0, 1], [2]]
    batch = found[0].batch
    assert batch["image"].shape == (2, 16, 16, 3)
    assert batch["size"].tolist() == [[20, 30], [20, 30]]
    assert batch["valid"].all()
    seen, _ = VIEW(images.pixels(1), None, 1)
    torch.testing.assert_close(batch["image"][1], seen, rtol=0, atol=0)


@pytest.mark.slow
def test_loader_processes_give_the_same(folder):
    images = open_images(str(folder), DecodingConfig(num_workers=2), channels=3)
    plain = list(read(open_images(str(folder), HOW, channels=3), VIEW, 1))
    for one, other in zip(read(images, VIEW, 1), plain, strict=True):
        assert one.positions == other.positions
        torch.testing.assert_close(one.batch["image"], other.batch["image"], rtol=0, atol=0)


def test_damaged_files_are_named_and_left_out(folder):
    (folder / "a" / "0.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (folder / "d.png").write_bytes(b"")
    found = list(read(open_images(str(folder), HOW, channels=3), VIEW, 1))
    assert [part.positions for part in found] == [[], [1], [2], [3], []]
    assert [reason for part in found for _, reason in part.damaged] == ["not an image (OSError)", "empty file"]
    assert found[0].batch is None


def test_a_file_that_is_gone_is_damaged(folder):
    images = open_images(str(folder), HOW, channels=3)
    (folder / "c.png").unlink()
    assert next(read(images, VIEW, 4)).damaged == [(2, "No such file or directory")]


def test_nothing_that_can_be_read(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"None of the 1 images can be read. The first, x\.jpg: "):
        list(read(open_images(str(tmp_path), HOW, channels=3), VIEW, 4))


def test_a_folder_without_images(tmp_path):
    with pytest.raises(DataError, match=r"No images found in .*the folder is empty"):
        open_images(str(tmp_path), HOW, channels=3)


def test_a_set_of_other_channels(tmp_path, folder):
    write_shards(read_folder(folder), tmp_path / "shards", WriteOptions(resize=None, workers=1, channels=1))
    with pytest.raises(ConfigError, match="has 1 channels and the model takes 3"):
        open_images(str(tmp_path / "shards"), HOW, channels=3)
    images = open_images(str(tmp_path / "shards"), HOW, channels=1)
    assert images.pixels(0).shape == (20, 30, 1)
    assert len(images) == 3


def test_the_built_in_set():
    assert open_images("builtin:digits", HOW, channels=3).rgb(0).shape == (32, 32, 3)


def test_clips_are_read_where_a_task_needs_them(tmp_path):
    provide_ffmpeg()
    (tmp_path / "a.avi").write_bytes(encode_clip(grey_frames(6), "avi"))
    (tmp_path / "b.webm").write_bytes(b"no clip")
    images = open_images(str(tmp_path), HOW, channels=3, needs="clip")
    view = FramesView(CenterCrop((16, 16), 1.0), (16, 16), 4, 1, clips=2)
    (found,) = read(images, view, 2)
    assert found.positions == [0]
    assert found.batch["image"].shape == (1, 8, 16, 16, 3)
    assert found.damaged[0][0] == 1
    with pytest.raises(DataError, match="No images found"):
        open_images(str(tmp_path), HOW, channels=3)
