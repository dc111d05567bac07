import io
import pickle
import tarfile

import numpy as np
import pytest

from data.modules import StreamData
from data.stream import StreamSet, find_shards
from swinmim.errors import DataError

SETTINGS = {"resolution": (16, 16), "seed": 0, "global_batch": 8, "batch_size": 8}


def stream(path, samples=40, **changed):
    return StreamData(StreamSet(str(path), samples), None, None, **SETTINGS | changed)


@pytest.mark.parametrize("workers", [0, 2])
def test_tars_without_an_index_are_streamed(shard_dir, workers):
    loader = stream(shard_dir, num_workers=workers).train_dataloader()
    epochs = [list(loader) for _ in range(2)]
    assert [len(epoch) for epoch in epochs] == [5, 5]
    batch = epochs[0][0]
    assert batch["image"].shape == (8, 16, 16, 3)
    assert batch["valid"].all()
    assert set(batch["label"].tolist()) <= {0, 1}
    assert not (batch["image"] == epochs[1][0]["image"]).all()
    assert all(0 < value < 1 for value in StreamSet(str(shard_dir), 40).mean)


def test_a_resumed_stream_says_that_it_is_not_exact(shard_dir, caplog):
    data = stream(shard_dir)
    data.load_state_dict(data.state_dict())
    assert "not exact" in caplog.text


def make_tar(path, files):
    with tarfile.open(path, "w") as out:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))


class Canary:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_hostile_streams(tmp_path, shards):
    good = shards.read(0).data
    make_tar(
        tmp_path / "a.tar",
        [(f"{n}.jpg", good if n % 8 else b"x") for n in range(64)] + [("0.pyd", pickle.dumps(Canary()))],
    )
    with pytest.raises(DataError, match=r"17 of \d+ images are damaged"):
        list(stream(tmp_path, 8000).train_dataloader())
    batches = list(stream(tmp_path, 80, max_bad_fraction=0.5).train_dataloader())
    assert sum(int(b["substituted"].sum()) for b in batches) > 3
    make_tar(tmp_path / "a.tar", [("a.txt", b"x")])
    with pytest.raises(DataError, match="hold no image"):
        stream(tmp_path)


def test_bands_are_refused_with_the_way_out(tmp_path):
    file = io.BytesIO()
    np.save(file, np.zeros((8, 8, 5), np.uint16))
    make_tar(tmp_path / "a.tar", [(f"{n}.npy", file.getvalue()) for n in range(2)])
    with pytest.raises(DataError, match=r"colour images of 8 bits.*\(8, 8, 5\).*index DIR --channels N"):
        stream(tmp_path)


def test_patterns_and_refused_urls(tmp_path):
    assert find_shards("https://x/{000..002}.tar") == [f"https://x/{n:03d}.tar" for n in range(3)]
    for url in ("pipe:touch canary", "http://x/0.tar"):
        with pytest.raises(DataError, match="are read over"):
            find_shards(url)
    with pytest.raises(DataError, match="holds or means none"):
        find_shards(str(tmp_path))
