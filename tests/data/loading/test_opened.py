"""A view that opens samples itself and gives tensors of its own shape; images do not know of it."""

import numpy as np
import pytest
import torch
from made_clips import encode_clip, grey_frames, provide_ffmpeg

from data.codecs.parsers import DecodeError
from data.loading.batch import LoaderSettings
from data.loading.dataset import BatchDataset
from data.loading.normalise import normalise
from data.loading.sampler import Place
from data.loading.views import CenterCrop
from data.shards.local import ShardSet
from data.sources.folder import read_folder
from data.write.writer import WriteOptions, write_shards
from finetune.heads.clips import FramesView

SETTINGS = LoaderSettings(resolution=(16, 24), seed=0, global_batch=2, batch_size=2)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Eight clips; the webm among them begins as one and holds no frame."""
    provide_ffmpeg()
    folder = tmp_path_factory.mktemp("clips")
    for number in range(8):
        (folder / "source" / f"c{number % 2}").mkdir(parents=True, exist_ok=True)
        data = encode_clip(grey_frames(6 + number), "avi")
        (folder / "source" / f"c{number % 2}" / f"{number}.avi").write_bytes(data)
    (folder / "source" / "c1" / "empty.webm").write_bytes(b"\x1aE\xdf\xa3" * 30)
    write_shards(read_folder(folder / "source", clips=True), folder / "set", WriteOptions(workers=1))
    return ShardSet.open(folder / "set")


def places(indices):
    return [Place(0, position, sample, True) for position, sample in enumerate(indices)]


def view(short="repeat"):
    return FramesView(CenterCrop((16, 24), 1.0), (16, 24), 4, 1, clips=2, short=short)


def test_batches_have_the_shape_of_the_view(clips):
    sound = [n for n in range(9) if clips.read(n).suffix == "avi"]
    dataset = BatchDataset(clips, np.arange(9), view(), SETTINGS, "eval")
    batch = dataset.__getitems__(places(sound[:3]))
    assert (batch["image"].shape, batch["image"].dtype) == ((3, 8, 16, 24, 3), torch.uint8)
    assert batch["size"].tolist() == [[48, 64]] * 3
    assert batch["valid"].all()
    assert "target" not in batch


@pytest.mark.parametrize("purpose", ["train", "eval"])
def test_a_clip_without_frames_is_replaced_and_counted(clips, purpose, caplog):
    empty = next(n for n in range(9) if clips.read(n).suffix == "webm")
    batch = BatchDataset(clips, np.arange(9), view(), SETTINGS, purpose).__getitems__(places([empty, (empty + 1) % 9]))
    assert batch["substituted"].tolist() == [True, False]
    assert batch["valid"].tolist() == [purpose == "train", True]
    assert batch["index"][0] != empty
    assert "webm: damaged clip" in caplog.text


def test_black_takes_the_place_where_all_are_damaged(clips):
    class Broken:
        shape = (5, 16, 24, 3)

        def open(self, data, max_pixels):
            raise DecodeError("broken")

    batch = BatchDataset(clips, np.arange(9), Broken(), SETTINGS, "train").__getitems__(places([0, 1]))
    assert batch["image"].shape == (2, 5, 16, 24, 3)
    assert (batch["image"] == 0).all()
    assert (batch["index"] == -1).all()


def test_frames_are_normalised_as_images():
    frames = torch.randint(256, (2, 3, 4, 5, 3), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.1, 0.2, 0.3)
    out = normalise(frames, mean, std)
    assert out.shape == (2, 3, 3, 4, 5)
    assert torch.equal(out[1], normalise(frames[1], mean, std))
