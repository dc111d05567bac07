import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from object_stores import google_cloud, hugging_face

from data.modules import PretrainData
from data.order import EpochOrder
from data.remote import Remote, check_url, open_remote
from data.shards import ShardSet
from swinmim.errors import DataError

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # sockets of the servers
    pytest.mark.filterwarnings("ignore::DeprecationWarning:botocore.*"),
]


class Handler(SimpleHTTPRequestHandler):
    """A file server that misbehaves on request: `faults` maps a file name to what happens to the next answers."""

    def do_GET(self):
        name = self.path.rpartition("/")[2]
        self.server.requests.append(name)
        faults = self.server.faults.get(name, [])
        fault = faults.pop(0) if faults else None
        if fault == "cut":
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif fault == "wrong":
            data = bytes(os.path.getsize(self.translate_path(self.path)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        elif fault == "slow":
            time.sleep(0.5)
            super().do_GET()
        elif fault is not None:
            self.send_error(fault)
        else:
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(shard_dir):
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(shard_dir)))
    server.faults, server.requests = {}, []
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def reach(server, cache, cache_bytes=10**9):
    return open_remote(server.url, cache, cache_bytes, True, pause=0.01)


def test_a_set_on_a_server_is_read_like_a_local_one(server, shards, tmp_path):
    remote = reach(server, tmp_path)
    assert [remote.read(n) for n in range(40)] == [shards.read(n) for n in range(40)]
    assert remote.fingerprint == shards.fingerprint
    tars = [name for name in server.requests if name.endswith(".tar")]
    assert sorted(tars) == [shard.name for shard in shards.shards]  # each once
    again = reach(server, tmp_path)
    again.read(0)
    assert len([name for name in server.requests if name.endswith((".tar", ".npy"))]) == len(tars) * 2


def test_a_shard_is_never_partial(server, shards, tmp_path):
    server.faults = {
        "train-000000.tar": ["cut", 503, 404, "wrong", "slow"],
        "manifest.json": [500],
        "train-000001.index.npy": ["cut"],
    }
    remote = reach(server, tmp_path)
    assert remote.read(0) == shards.read(0)
    assert server.requests.count("train-000000.tar") == 5
    assert not list(tmp_path.rglob("*partial*"))


def test_a_silent_server_counts_as_gone(server, shards, tmp_path, monkeypatch):
    monkeypatch.setattr("data.remote._SILENT_SECONDS", 0.1)
    server.faults = {"train-000000.tar": ["slow"]}
    assert reach(server, tmp_path).read(0) == shards.read(0)
    assert server.requests.count("train-000000.tar") == 2


@pytest.mark.parametrize("fault", ["cut", "wrong", 404])
def test_a_server_that_stays_broken_is_named_with_what_it_did(server, tmp_path, fault):
    server.faults = {"train-000002.tar": [fault] * 100}
    remote = reach(server, tmp_path)
    remote.read(0)
    with pytest.raises(DataError, match=r"(?s)train-000002.tar cannot be read. 6 tries met"):
        remote.read(14)
    assert len(list((tmp_path / "shards").glob("*.tar"))) == 1


def test_many_readers_fetch_a_shard_once(server, shards, tmp_path):
    server.faults = {"train-000000.tar": ["slow"]}
    remote = reach(server, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(remote.fetch, [0] * 8))
    assert server.requests.count("train-000000.tar") == 1


def test_the_cache_keeps_its_size_and_readers_survive(server, shards, tmp_path):
    size = max(shard.bytes for shard in shards.shards)
    remote = reach(server, tmp_path, 4 * size)
    for _ in range(2):
        assert [remote.read(n) for n in range(40)] == [shards.read(n) for n in range(40)]
        assert sum(f.stat().st_size for f in (tmp_path / "shards").glob("*.tar")) <= 4 * size
    with pytest.raises(DataError, match="cache must hold a few shards"):
        reach(server, tmp_path, size)


def test_sets_of_one_name_do_not_collide(server, shards, tmp_path, monkeypatch):
    one = reach(server, tmp_path)
    other = open_remote(server.url.replace("127.0.0.1", "localhost"), tmp_path, 10**9, True, pause=0.01)
    assert one.path != other.path
    assert one.read(3) == other.read(3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_training_batches_are_those_of_the_local_set(server, shards, tmp_path, workers):
    settings = {"resolution": (16, 16), "seed": 3, "global_batch": 8, "batch_size": 8, "num_workers": workers}
    local = [b["image"] for b in PretrainData(shards, **settings).train_dataloader()]
    remote = [b["image"] for b in PretrainData(reach(server, tmp_path), **settings).train_dataloader()]
    assert len(local) == len(remote) == EpochOrder(shards.shard_sizes, 8, 3, 0).batches
    assert all((a == b).all() for a, b in zip(local, remote, strict=True))
    assert len([name for name in server.requests if name.endswith(".tar")]) == 6


@pytest.mark.parametrize(
    "url", ["pipe:touch canary", "file:///x", "ftp://x/y", "ssh://x", "http://x/y", "github://x:y@z/"]
)
def test_other_schemes_are_refused(url):
    with pytest.raises(DataError, match="are read over https, s3, gs, hf"):
        check_url(url)
    with pytest.raises(DataError, match="are read over"):
        Remote(url)


def files_of(shard_dir):
    return {f"sets/a/{file.name}": file.read_bytes() for file in shard_dir.iterdir()}


def hf_options(url):
    return {"endpoint": url, "token": False, "skip_instance_cache": True}


def gs_options(url):
    return {"endpoint_url": url, "token": "anon", "skip_instance_cache": True}


@pytest.fixture(params=["hf", "gs"])
def store(request, shard_dir, monkeypatch):
    """The server, the URL of the set on it, and the options of the real client."""
    monkeypatch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")  # asks about the bucket over gRPC
    if request.param == "hf":
        pytest.importorskip("huggingface_hub")
        with hugging_face(files_of(shard_dir)) as server:
            yield server, "hf://datasets/user/set/sets/a", hf_options(server.url)
    else:
        pytest.importorskip("gcsfs")
        with google_cloud(files_of(shard_dir)) as server:
            yield server, "gs://bucket/sets/a", gs_options(server.url)


def test_the_real_clients_of_hf_and_gs(store, shards, tmp_path):
    _, url, options = store
    remote = open_remote(url, tmp_path, 10**9, options=options, pause=0.01)
    assert [remote.read(n) for n in range(40)] == [shards.read(n) for n in range(40)]
    assert remote.fingerprint == shards.fingerprint
    with pytest.raises(DataError, match="cannot be read"):
        open_remote(url.replace("/a", "/none"), tmp_path, 10**9, options=options, pause=0.001)


def test_a_shard_takes_few_requests(store, tmp_path):
    server, url, options = store
    data = server.files["sets/a/large.tar"] = os.urandom(20 << 20)
    Remote(url, options=options).fetch("large.tar", tmp_path / "large.tar", len(data))
    assert (tmp_path / "large.tar").read_bytes() == data
    assert len([line for line in server.requests if "resolve" in line or "media" in line]) <= 8


def test_a_hub_that_does_not_answer_is_named(tmp_path):
    pytest.importorskip("huggingface_hub")
    options = hf_options("http://127.0.0.1:9")
    with pytest.raises(DataError, match=r"(?s)cannot be read. 6 tries met:.*ConnectError"):
        open_remote("hf://datasets/user/set/sets/a", tmp_path, 10**9, options=options, pause=0.001)


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [
        ("gs", "gcsfs", "'swinmim.gs.'"),
        ("hf", "huggingface_hub", "huggingface_hub"),
        ("s3", "s3fs", "'swinmim.remote.'"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, tmp_path, scheme, module, package):
    from fsspec.registry import _registry

    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(_registry, scheme, raising=False)
    with pytest.raises(DataError, match=f"Reading {scheme}:// needs one more package: pip install {package}"):
        open_remote(f"{scheme}://bucket/set", tmp_path, 10**9)


def test_s3(shards, shard_dir, tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="bucket")
        for file in shard_dir.iterdir():
            client.upload_file(str(file), "bucket", f"sets/a/{file.name}")
        options = {"endpoint_url": endpoint}
        remote = open_remote("s3://bucket/sets/a", tmp_path, 10**9, options=options, pause=0.01)
        assert isinstance(remote, ShardSet)
        assert [remote.read(n) for n in range(40)] == [shards.read(n) for n in range(40)]
        with pytest.raises(DataError, match="cannot be read"):
            open_remote("s3://bucket/none", tmp_path, 10**9, options=options, pause=0.001)
    finally:
        server.stop()
