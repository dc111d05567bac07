import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from made_loaders import shard_data
from servers import file_server

from data.order.epoch import EpochOrder
from data.shards.cache import open_remote
from data.shards.mixed import MixedSet
from data.shards.remote import Remote
from swinmim.errors import DataError

pytestmark = [
    pytest.mark.usefixtures("own_connections"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),  # sockets of the servers
]

SETTINGS = {"resolution": (16, 16), "seed": 3, "global_batch": 8, "batch_size": 8}


def reach(server, cache, cache_bytes=10**9):
    return open_remote(server.url, cache, cache_bytes, True, pause=0.01)


def test_many_readers_fetch_a_shard_once(server, shards, tmp_path):
    server.faults = {"train-000000.tar": ["slow"]}
    remote = reach(server, tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(remote.prepare, [np.array([0])] * 8))
    assert server.requests.count("train-000000.tar") == 1


def test_the_cache_keeps_its_size_and_readers_survive(server, shards, tmp_path):
    size = max(shard.bytes for shard in shards.shards)
    remote = reach(server, tmp_path, 4 * size)
    for _ in range(2):
        assert [remote.read(n) for n in range(40)] == [shards.read(n) for n in range(40)]
        assert held(tmp_path) <= 4 * size
    with pytest.raises(DataError, match="cache must hold a few shards"):
        reach(server, tmp_path, size)


def held(cache):
    """Bytes of the shards, and of those under way as if they were whole."""
    total = 0
    for file in (cache / "shards").iterdir():
        if file.suffix == ".partial":
            total += int(file.stem.rpartition(".")[2])
        elif file.suffix == ".tar":
            total += file.stat().st_size
    return total


def test_the_size_holds_while_many_fetch_at_once(server, shards, tmp_path):
    limit = 4 * max(shard.bytes for shard in shards.shards)
    server.faults = {shard.name: ["slow"] for shard in shards.shards}
    remote, seen, done = reach(server, tmp_path, limit), [], threading.Event()

    def watch():
        while not done.wait(0.002):
            try:
                seen.append(held(tmp_path))
            except FileNotFoundError:
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(remote.prepare, np.arange(40)[:, None]))
    done.set()
    watcher.join()
    assert 0 < max(seen) <= limit
    assert not list(tmp_path.rglob("*.partial"))


# A loader that is forked meanwhile has a copy of everything that its parent has open, and outlives it.
FETCHING = """
import os, sys, threading, time
from pathlib import Path
from data.shards.cache import open_remote
remote = open_remote(sys.argv[1], sys.argv[2], 10**9, True)
threading.Thread(target=remote.read, args=(0,)).start()
while not [file for file in Path(sys.argv[2], "shards").glob("*.partial") if file.stat().st_size]:
    time.sleep(0.02)
if child := os.fork():
    print(child, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_what_a_killed_process_was_downloading_is_removed(server, shards, tmp_path, request):
    size = max(shard.bytes for shard in shards.shards)
    server.faults = {"train-000000.tar": ["stuck"]}
    process = subprocess.Popen([sys.executable, "-c", FETCHING, server.url, str(tmp_path)], stdout=subprocess.PIPE)
    request.addfinalizer(process.stdout.close)
    child = int(process.stdout.readline())
    request.addfinalizer(lambda: os.kill(child, signal.SIGKILL))
    alive = reach(server, tmp_path, 4 * size)
    alive.read(7)
    assert len(list(tmp_path.rglob("*.partial"))) == 1  # not that of a process that lives
    process.send_signal(signal.SIGKILL)
    process.wait()
    alive.read(14)
    assert not list(tmp_path.rglob("*.partial"))
    assert alive.read(0) == shards.read(0)
    os.kill(child, 0)  # it lives


def test_few_files_stay_open_that_may_have_been_evicted(server, shards, tmp_path, monkeypatch):
    remote = reach(server, tmp_path)
    assert (remote.open_files, shards.open_files) == (8, 64)
    monkeypatch.setattr(type(remote), "open_files", 2)
    for n in range(0, 40, 7):
        remote.read(n)
    inside = [
        os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")
    ]
    assert len([path for path in inside if path.startswith(str(tmp_path))]) == 2


def test_a_damaged_shard_in_the_cache_is_fetched_again(server, shards, tmp_path, caplog):
    remote = reach(server, tmp_path)
    remote.prepare(np.array([0]))
    path = remote.file_of(0)
    os.truncate(path, 3000)
    assert reach(server, tmp_path).read(0) == shards.read(0)
    assert f"{path} was damaged" in caplog.text
    path.write_bytes(bytes(path.stat().st_size))  # the right size, which only reading tells
    with pytest.raises(DataError, match=f"not where the index says, in {path}"):
        reach(server, tmp_path).read(0)


def test_names_in_a_manifest_touch_no_file_outside(server, tmp_path):
    """A lock is opened, not emptied, whatever it is called."""
    remote = reach(server, tmp_path)
    lock = tmp_path / "shards" / ".locks" / remote.shards[0].sha256
    lock.parent.mkdir()
    lock.write_text("kept")
    remote.prepare(np.array([0]))
    assert lock.read_text() == "kept"
    lock_of_evicted = lock.stat().st_ino
    remote.cache.limit = remote.shards[1].bytes
    remote.prepare(np.array([7]))
    assert not remote.file_of(0).exists()
    assert lock.stat().st_ino == lock_of_evicted  # another process may be waiting for it


def test_sets_of_one_name_do_not_collide(server, shards, tmp_path):
    one = reach(server, tmp_path)
    other = open_remote(server.url.replace("127.0.0.1", "localhost"), tmp_path, 10**9, True, pause=0.01)
    assert one.path != other.path
    assert one.read(3) == other.read(3)


def test_a_set_goes_to_a_worker_without_asking_the_server(server, shards, shard_dir, tmp_path):
    remote = reach(server, tmp_path)
    remote.read(0)
    sent = pickle.dumps(remote)
    server.requests.clear()
    server.faults = {"*": [500] * 1000}
    other = pickle.loads(sent)
    assert other.read(0) == shards.read(0)
    assert server.requests == []
    assert (other.remote.pause, other.cache.limit) == (0.01, 10**9)
    assert len(sent) < 5000
    mixed = MixedSet([shards, remote], [1, 1])
    assert not mixed.fork_safe
    assert pickle.loads(pickle.dumps(mixed)).read(40) == mixed.read(40)
    manifest = remote.path / "manifest.json"
    manifest.write_text(manifest.read_text().replace("0", "1", 1))
    with pytest.raises(DataError, match="was changed while in use"):
        pickle.loads(sent)


def test_a_set_that_changes_on_the_server_leaves_a_run_what_it_began_with(shard_dir, shards, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    for file in shard_dir.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with file_server(folder) as server:
        running = reach(server, tmp_path / "cache")
        text = (folder / "manifest.json").read_text()
        (folder / "manifest.json").write_text(text.replace('"skipped"', '"left"'))
        later = reach(server, tmp_path / "cache")
    assert later.fingerprint != running.fingerprint
    assert pickle.loads(pickle.dumps(running)).fingerprint == running.fingerprint


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_training_batches_are_those_of_the_local_set(server, shards, tmp_path, workers):
    """And the connections of this process survive its workers: it fetches while they come and go."""
    local = [b["image"] for b in shard_data(shards, **SETTINGS).train_dataloader()]
    assert len(local) == EpochOrder(shards.shard_sizes, 8, 3, 0).batches
    remote = reach(server, tmp_path)
    server.requests.clear()
    loader = shard_data(remote, **SETTINGS, num_workers=workers).train_dataloader()
    began = time.monotonic()
    batches = [b["image"] for b in loader]
    del loader
    for _ in range(5):
        Remote(server.url, allow_insecure=True).read("manifest.json", 10**6, lambda data: None)
    assert time.monotonic() - began < 50  # a connection whose events another process took waits for 60
    assert all(torch.equal(a, b) for a, b in zip(local, batches, strict=True))
    assert len([name for name in server.requests if name.endswith(".tar")]) == 6


def test_workers_are_forked_only_where_that_is_safe(server, shards, tmp_path):
    def start(train, val):
        data = shard_data(train, np.arange(30), np.arange(30, 40), **SETTINGS, num_workers=1)
        data.val = val
        contexts = [loader.multiprocessing_context for loader in (data.train_dataloader(), data.val_dataloader())]
        return [None if context is None else context.get_start_method() for context in contexts]

    remote = reach(server, tmp_path)
    assert start(shards, shards) == [None, None]
    assert start(remote, shards) == start(shards, remote) == ["spawn", "spawn"]  # they share this process


@pytest.mark.parametrize(
    ("environment", "devices", "processes"),
    [
        ({"LOCAL_RANK": "0", "WORLD_SIZE": "4"}, 4, 4),  # Lightning's own children
        (
            {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "4", "SLURM_NNODES": "2", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"},
            2,
            2,
        ),
        (
            {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0"},
            2,
            2,
        ),
        ({}, 1, 1),
    ],
)
def test_one_thread_fetches_for_all_processes_of_its_node(
    server, tmp_path, monkeypatch, environment, devices, processes
):
    for name in ("LOCAL_RANK", "WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    world, rank = (4, int(environment.get("SLURM_PROCID", environment.get("RANK", "0")))) if environment else (1, 0)
    data = shard_data(reach(server, tmp_path), **SETTINGS)
    data.trainer = SimpleNamespace(world_size=world, global_rank=rank, num_devices=devices)
    asked = []
    monkeypatch.setattr("data.loading.module.Ahead", lambda prepare, coming, batches: asked.extend(coming))
    data._fetch_ahead(iter([np.arange(8)]))
    share = 8 // world
    assert asked[0].tolist() == list(range(rank * share, (rank + processes) * share))
