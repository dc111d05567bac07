import io
import itertools
import multiprocessing
import pickle
import tarfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from made_loaders import SMALL, stream_data
from torch.multiprocessing.spawn import start_processes

from data.codecs.decode import decode
from data.config import DataConfig
from data.loading.batch import LoaderSettings
from data.loading.stream import StreamDataset, StreamLoader
from data.open import open_data
from data.shards import streamed
from data.shards.streamed import StreamSet
from data.shards.tar_stream import BadShard, ForeignTars, find_shards
from swinmim.errors import DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # sockets of the servers
]


def stream(path, samples=40, **changed):
    return stream_data(StreamSet(str(path), samples), **changed)


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


def test_one_image_is_measured_where_the_statistics_are_given(shard_dir, monkeypatch):
    decoded = []
    monkeypatch.setattr(streamed, "decode", lambda *given, **named: decoded.append(0) or decode(*given, **named))
    common = {"val_ratio": 0, "cache_dir": None, "pack_resize": None, "pack_quality": 95, "num_workers": 0}
    config = DataConfig(path=str(shard_dir), streaming_samples=40, stats="imagenet", max_bad_fraction=0.0, **common)
    assert open_data(config).channels == 3
    assert len(decoded) == 1
    open_data(replace(config, stats="auto"))
    assert len(decoded) == 1 + 40


def test_a_stream_says_that_it_is_not_exact_at_the_start_and_when_resumed(shard_dir, caplog):
    data = stream(shard_dir)
    assert "no resume will be exact" in caplog.text
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
    with pytest.raises(DataError, match=r"\d+ of \d+ images are damaged, more than max_bad_fraction=0.001"):
        list(stream(tmp_path, 8000).train_dataloader())
    batches = list(stream(tmp_path, 80, max_bad_fraction=0.5).train_dataloader())
    assert sum(int(b["substituted"].sum()) for b in batches) > 3
    make_tar(tmp_path / "a.tar", [("a.txt", b"x")])
    with pytest.raises(DataError, match="hold no image"):
        stream(tmp_path)


def numbered(folder, shards, each, data, label=b"1"):
    """Tars whose keys are numbers in their order."""
    for number in range(shards):
        names = [f"{number * each + n:06d}" for n in range(each)]
        make_tar(folder / f"{number}.tar", [(f"{n}.{s}", d) for n in names for s, d in (("jpg", data), ("cls", label))])


def dataset(urls, view=None, **place):
    tars = SimpleNamespace(urls=urls, channels=3, allow_insecure=False, fork_safe=True)
    return StreamDataset(tars, view, LoaderSettings(**SMALL), 0, **place)


@pytest.mark.parametrize(("shards", "each", "kept"), [(4, 50, 200), (40, 50, 1000)])
@pytest.mark.slow
def test_the_order_stays_random(tmp_path, shards, each, kept):
    numbered(tmp_path, shards, each, b"x")
    samples = dataset(find_shards(str(tmp_path))).samples(0)
    for _ in range(3):
        order = np.array([int(s.name.rpartition(" ")[2]) for s in itertools.islice(samples, shards * each)])
        assert (np.diff(order) == 1).mean() < 0.05
        near = np.abs(np.diff(order)) < each
        assert near.mean() < 3 * min(1, each / kept)  # neighbours come from the same tar about as often as by chance


def test_the_buffer_is_bounded_in_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("data.loading.stream._KEPT_BYTES", 5000)
    numbered(tmp_path, 2, 100, bytes(1000))
    read = list(itertools.islice(dataset(find_shards(str(tmp_path))).samples(0), 20))
    assert max(int(s.name.rpartition(" ")[2]) % 100 for s in read) < 26  # 20 came out, 5 lie in the buffer


@pytest.mark.parametrize(
    ("text", "label"), [(b"1\n", 1), (b" 12 ", 12), (b"-1", -1), (b"cat", -1), (b"", -1), (b"9" * 30, -1)]
)
def test_labels(tmp_path, text, label):
    numbered(tmp_path, 1, 2, b"x", text)
    assert [s.label for s in ForeignTars().samples(str(tmp_path / "0.tar"))] == [label] * 2


REMOTE = "/train-{000000..000005}.tar"
CUTS = ["cut", "cut without length", "cut between chunks"]


def test_a_shard_on_a_server_is_read_again_from_where_it_broke_off(server, shard_dir):
    local = [s.data for s in ForeignTars().samples(str(shard_dir / "train-000000.tar"))]
    server.faults = {"train-000000.tar": [404, 503, *CUTS]}
    tars = ForeignTars(allow_insecure=True, first_pause=0.001)
    url = f"{server.url}/train-000000.tar"
    assert [s.data for s in tars.samples(url)] == local
    assert len(server.requests) == 6
    for fault in (404, 503, "page", "empty", *CUTS):
        server.faults = {"train-000000.tar": [fault] * 6}
        with pytest.raises(BadShard, match=r"train-000000\.tar: "):
            list(ForeignTars(allow_insecure=True, first_pause=0.001).samples(url))
    server.faults = {"train-000000.tar": [404] * 6}
    with pytest.raises(BadShard):
        list(ForeignTars(allow_insecure=True).samples(url, patient=False))  # without the 31 seconds


def test_a_slow_server(server, monkeypatch):
    monkeypatch.setattr("data.shards.remote._SILENT_SECONDS", 0.1)
    server.faults = {"train-000000.tar": ["slow", "stuck"]}
    tars = ForeignTars(allow_insecure=True, first_pause=0.001)
    assert len(list(tars.samples(f"{server.url}/train-000000.tar"))) == 7


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_lost_shard_on_a_server_does_not_end_the_run(server, tmp_path, workers):
    data = stream_data(StreamSet(server.url + REMOTE, 24, allow_insecure=True), num_workers=workers)
    loader = data.train_dataloader()
    assert workers == 0 or loader.multiprocessing_context.get_start_method() == "spawn"
    assert isinstance(loader.dataset, StreamDataset)
    loader.dataset.tars.first_pause = 0.001
    server.faults = {"train-000003.tar": [404] * 6}
    assert [batch["image"].any(dim=(1, 2, 3)).all().item() for batch in loader] == [True] * 3


def test_no_shard_that_can_be_read_is_said_at_once(server):
    with pytest.raises(DataError, match=r"hold no image: .*none-3\.tar: HTTP 404: File not found"):
        StreamSet(server.url + "/none-{0..999}.tar", 8, allow_insecure=True)
    assert len(server.requests) == 4


def damage(path, how, good):
    data = path.read_bytes()
    if how == "cut":
        path.write_bytes(data[:5000])
    elif how == "cut between members":
        with tarfile.open(path) as tar:
            path.write_bytes(data[: tar.getmembers()[4].offset])
    elif how == "damaged header":
        with tarfile.open(path) as tar:
            start = tar.getmembers()[4].offset
        path.write_bytes(data[:start] + b"\xff" * 512 + data[start + 512 :])
    elif how == "duplicate":
        make_tar(path, [("a.jpg", good), ("a.jpg", good)])
    elif how == "lost":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "page": b"<html>" * 1000}[how])


HOWS = ["cut", "cut between members", "damaged header", "duplicate", "lost", "empty", "page"]


@pytest.mark.parametrize(("how", "workers"), [*((how, 0) for how in HOWS), ("cut", 1)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_damaged_tar_is_named_and_counted_and_too_many_end_the_run(tmp_path, shards, caplog, how, workers):
    good = shards.read(0).data
    numbered(tmp_path, 4, 8, good)
    data = stream(tmp_path, 4000, num_workers=workers)
    damage(tmp_path / "1.tar", how, good)
    with pytest.raises(DataError, match=r"^\d+ of \d+ shards are damaged, more than max_bad_fraction=0.001") as caught:
        list(data.train_dataloader())
    assert "Traceback" not in str(caught.value)
    assert workers or "1.tar" in caplog.text
    data.settings = replace(data.settings, max_bad_fraction=1.0)
    assert len(list(itertools.islice(data.train_dataloader(), 10))) == 10


def test_nothing_left_to_read_ends_the_run(tmp_path, shards):
    good = shards.read(0).data
    numbered(tmp_path, 2, 8, good)
    data = stream(tmp_path, 4000, max_bad_fraction=1.0)
    for file in tmp_path.iterdir():
        file.write_bytes(b"")
    with pytest.raises(DataError, match="holds no further image: 8 of 8 shards are damaged"):
        list(data.train_dataloader())


def test_missing_tars_are_listed_at_the_start(tmp_path):
    numbered(tmp_path, 2, 2, b"x")
    with pytest.raises(DataError, match=r"3 of 5 are not: .*/2.tar, .*/3.tar, .*/4.tar"):
        find_shards(str(tmp_path / "{0..4}.tar"))


def rank_of_two(rank, folder, results):
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    urls = sorted(str(file) for file in folder.glob(f"{rank}-*.tar"))
    view = lambda image, target, seed: (torch.zeros(16, 16, 3), None)  # noqa: E731
    loader = StreamLoader(dataset(urls, view, rank=rank, world=2), 64, 0, 0.001)
    batches = 0
    try:
        for _ in loader:
            batches += 1
    except DataError as error:
        results.put((rank, batches, str(error)))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.slow
def test_all_ranks_stop_at_the_same_batch(tmp_path, shards):
    """Though only the shards of one are damaged."""
    good = shards.read(0).data
    for rank in range(2):
        for number in range(12):
            make_tar(tmp_path / f"{rank}-{number}.tar", [(f"{n}.jpg", good) for n in range(8)])
    for number in range(4):
        (tmp_path / f"1-{number}.tar").write_bytes(b"")
    results = multiprocessing.get_context("fork").Queue()
    start_processes(rank_of_two, (tmp_path, results), nprocs=2, start_method="fork")
    (_, first, one), (_, second, other) = sorted(results.get(timeout=5) for _ in range(2))
    assert first == second < 64
    assert one == other
    assert "shards are damaged" in one


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
    with pytest.raises(DataError, match="is named as https"):
        find_shards("https://x/0.tar::pipe:touch canary")
    with pytest.raises(DataError, match="holds or means none"):
        find_shards(str(tmp_path))
