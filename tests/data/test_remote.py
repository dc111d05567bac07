import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("scheme", ["gs", "hf"])
def test_the_file_system_of_the_scheme_is_asked(shards, shard_dir, tmp_path, scheme, monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.registry import _registry

    class Fake(MemoryFileSystem):
        protocol = (scheme,)
        store, pseudo_dirs, cachable = {}, [""], False

        @classmethod
        def _strip_protocol(cls, path):
            return MemoryFileSystem._strip_protocol(path.removeprefix(f"{scheme}://"))

    monkeypatch.setitem(_registry, scheme, Fake)
    for file in shard_dir.iterdir():
        Fake().pipe_file(f"{scheme}://bucket/set/{file.name}", file.read_bytes())
    remote = open_remote(f"{scheme}://bucket/set", tmp_path, 10**9, pause=0.001)
    assert [remote.read(n) for n in range(40)] == [shards.read(n) for n in range(40)]
    with pytest.raises(DataError, match="cannot be read"):
        open_remote(f"{scheme}://bucket/none", tmp_path, 10**9, pause=0.001)


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [("gs", "gcsfs", "gcsfs"), ("hf", "huggingface_hub", "huggingface_hub"), ("s3", "s3fs", "'swinmim.remote.'")],
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
