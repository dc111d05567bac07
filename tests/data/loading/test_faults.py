"""Real processes that die, and ranks that must not wait for each other for ever."""

import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import random
import signal
import sys
import time

import pytest
import torch.distributed as dist
from made_loaders import shard_data

from data.shards.local import ShardSet
from swinmim.errors import DataError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*will create 4 worker processes"),  # more than a small machine has cores
]
FORK = multiprocessing.get_context("fork")
BATCHES = 5  # of an epoch: 40 images in global batches of 8


def train(shard_dir, epochs, world, rank, workers, barrier, state_file, log_file, pause):
    """Reads batches, writes down what it read, and keeps the position in a file, as a trainer does after each step."""
    os.setpgid(0, 0)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
    data = shard_data(
        ShardSet.open(shard_dir),
        resolution=(16, 16),
        seed=5,
        global_batch=8,
        batch_size=8 // world,
        num_workers=workers,
    )
    start = (0, 0)
    if state_file.exists():
        state = json.loads(state_file.read_text())
        data.load_state_dict(state)
        start = (state["epoch"], state["batches"])
    loader = data.train_dataloader()
    with log_file.open("w") as log:
        for epoch in range(start[0], epochs):
            loader.batch_sampler.set_epoch(epoch)
            first = start[1] if epoch == start[0] else 0
            for step, batch in enumerate(loader, first):
                for row, index in enumerate(batch["index"].tolist()):
                    digest = hashlib.sha256(batch["image"][row].numpy()).hexdigest()
                    place = step * 8 + rank * (8 // world) + row
                    log.write(json.dumps([epoch, step, place, index, int(batch["seed"][row]), digest]) + "\n")
                log.flush()
                time.sleep(pause)
                barrier.wait()
                if rank == 0:
                    partial = state_file.with_suffix(".partial")
                    partial.write_text(json.dumps(data.state_dict() | {"epoch": epoch, "batches": step + 1}))
                    partial.rename(state_file)
                barrier.wait()


def attempt(shard_dir, epochs, folder, number, world, workers, kill_after=None, delay=0.0):
    """Run to the end, or kill -9 everything when rank 0 has read so many batches; what was read, and the position."""
    barrier = FORK.Barrier(world)
    state, logs = folder / "state.json", [folder / f"{number}-{rank}.log" for rank in range(world)]
    pause = 0.0 if kill_after is None else 0.01
    arguments = [(shard_dir, epochs, world, rank, workers, barrier, state, logs[rank], pause) for rank in range(world)]
    ranks = [FORK.Process(target=train, args=each) for each in arguments]
    for process in ranks:
        process.start()
    if kill_after is not None:
        while ranks[0].is_alive() and _count(logs[0]) < kill_after * 8 // world:
            time.sleep(0.001)
        time.sleep(delay)
        for process in ranks:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # not yet a group
                process.kill()
    for process in ranks:
        process.join()
    assert {process.exitcode for process in ranks} == {0 if kill_after is None else -signal.SIGKILL}
    lines = [line for log in logs if log.exists() for line in log.read_text().splitlines() if line.endswith("]")]
    reached = json.loads(state.read_text()) if state.exists() else {"epoch": 0, "batches": 0}
    return sorted(map(json.loads, lines)), reached["epoch"] * BATCHES + reached["batches"]


def _count(log):
    return log.read_bytes().count(b"\n") if log.exists() else 0


def kill_and_resume(shard_dir, tmp_path, kills):
    """Each run is killed one to four batches after it begins to read; the last one may end."""
    epochs = 2 * kills  # twice as many batches as the runs read
    (tmp_path / "whole").mkdir()
    whole, end = attempt(shard_dir, epochs, tmp_path / "whole", 0, 1, 0)
    assert len(whole) == end * 8 == epochs * BATCHES * 8
    draw = random.Random(0)
    begin, seen = 0, []
    places = draw.sample([(1, 0), (1, 1), (1, 4), (2, 0), (2, 2), (4, 1), (8, 0)] * kills, kills + 1)
    for number, (world, workers) in enumerate(places):
        kill_after = draw.randint(1, 4) if number < kills else None
        lines, reached = attempt(shard_dir, epochs, tmp_path, number, world, workers, kill_after, draw.uniform(0, 0.02))
        # Whatever was read after the last saved position is gone with the weights that saw it.
        seen += [line for line in lines if begin <= line[0] * BATCHES + line[1] < reached]
        assert begin <= reached <= end
        if kill_after is not None:
            assert lines  # progress was possible
            assert reached < end  # and more was to come
        begin = reached
    assert begin == end
    assert seen == whole


@pytest.mark.slow
def test_killed_runs_go_on_with_other_processes(shard_dir, tmp_path):
    kill_and_resume(shard_dir, tmp_path, 5)


@pytest.mark.slow
def test_twenty_kills_lose_and_repeat_nothing(shard_dir, tmp_path):
    kill_and_resume(shard_dir, tmp_path, 20)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_names_the_sample(shards, monkeypatch, workers):
    victim = shards.read(11)

    def decode(data, *_, **__):
        if data == victim.data:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(data)

    from data.codecs.decode import decode as original
    from data.loading import dataset

    monkeypatch.setattr(dataset, "decode", decode)
    data = shard_data(shards, resolution=(16, 16), seed=0, global_batch=8, batch_size=8, num_workers=workers)
    with pytest.raises(DataError, match=rf"exit codes: -9.*reading: {victim.shard}: {victim.key}\.jpg"):
        list(data.train_dataloader())


@pytest.mark.slow
def test_a_worker_without_shared_memory_names_that_and_no_image(shards, monkeypatch):
    from data.loading import dataset

    monkeypatch.setattr(dataset, "decode", lambda *_, **__: os.kill(os.getpid(), signal.SIGBUS))
    data = shard_data(shards, resolution=(16, 16), seed=0, global_batch=8, batch_size=8, num_workers=1)
    with pytest.raises(DataError, match=r"/dev/shm.* is too small: .*data\.num_workers=0") as caught:
        list(data.train_dataloader())
    assert "image out" not in str(caught.value)


@pytest.mark.parametrize(
    "error", [EOFError(), ConnectionResetError(104, "reset"), RuntimeError("received 0 of ancdata")]
)
def test_workers_that_live_and_cannot_hand_over_are_told_from_dead_ones(shards, error):
    data = shard_data(shards, resolution=(16, 16), seed=0, global_batch=8, batch_size=8, num_workers=1)
    loader = data.train_dataloader()
    assert loader._iterator is None
    assert "files open at once" in str(loader._name(error))
    other = RuntimeError("a fault of the program")
    assert loader._name(other) is other


@pytest.mark.slow
def test_a_second_notice_of_the_death_does_not_hide_the_sample(shards, monkeypatch):
    from data.loading.loader import BatchLoader

    naming = BatchLoader._name
    notices = iter([RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed.")])

    def interrupted(loader, error):
        for notice in notices:  # as torch's handler does when the signal comes late
            raise notice
        return naming(loader, error)

    monkeypatch.setattr(BatchLoader, "_name", interrupted)
    test_a_worker_that_dies_names_the_sample(shards, monkeypatch, 1)


def limited(shard_dir, rank, rendezvous, results, batch_size):
    logging.disable()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    data = shard_data(
        ShardSet.open(shard_dir), resolution=(16, 16), seed=0, global_batch=2 * batch_size, batch_size=batch_size
    )
    loader = data.train_dataloader()
    count = 0
    try:
        for batch in itertools.islice(loader, len(loader)):  # as Lightning, which asks for no batch after the last
            count += 1
            gradient = batch["image"].float().mean()
            dist.all_reduce(gradient)  # what a rank that stopped alone would leave the others waiting in
        results.put((rank, count, f"end after {len(loader)}"))
    except DataError as error:
        results.put((rank, count, str(error)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch_size", "expected"), [(1, 15), (5, 3)], ids=["the sixteenth batch", "the last batch of a short epoch"]
)
def test_too_many_bad_images_on_one_rank_stop_both_at_the_same_batch(
    shard_dir, tmp_path, monkeypatch, batch_size, expected
):
    from data.codecs.decode import DecodeError
    from data.codecs.decode import decode as original
    from data.loading import dataset

    calls = itertools.count(1)

    def decode(data, *arguments, **options):
        if os.environ.get("RANK") == "1" and next(calls) % 2:
            raise DecodeError("bad on this rank")
        return original(data, *arguments, **options)

    monkeypatch.setattr(dataset, "decode", decode)
    results = FORK.SimpleQueue()
    ranks = [
        FORK.Process(target=limited, args=(shard_dir, rank, tmp_path / "meet", results, batch_size))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]
    (_, one, first), (_, two, second) = results.get(), results.get()
    assert one == two == expected
    assert first == second
    assert "At most 8 images" in first
