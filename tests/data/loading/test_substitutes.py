"""Images that cannot be decoded, kill their decoder or never end: counted, named, replaced, within limits."""

import logging
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from made_loaders import SMALL, shard_data

from data.codecs.decode import decode as decode_image
from data.loading import dataset
from data.loading.batch import LoaderSettings
from data.loading.dataset import BatchDataset
from data.loading.sampler import Place
from data.loading.views import RandomCrop
from swinmim.errors import DataError

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="forks"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_image_is_counted_named_and_replaced(damaged, workers, tmp_path):
    shards = damaged([3])
    size = SMALL | {"global_batch": 40, "batch_size": 40, "num_workers": workers}
    handler = logging.FileHandler(tmp_path / "log")  # forks write into it too
    logging.getLogger("data.loading.dataset").addHandler(handler)
    try:
        runs = [list(shard_data(shards, **size).train_dataloader()) for _ in range(2)]
    finally:
        logging.getLogger("data.loading.dataset").removeHandler(handler)
        handler.close()
    (batch,), (again,) = runs
    assert batch["substituted"].sum() == 1
    assert 3 not in batch["index"].tolist()
    assert torch.equal(batch["index"], again["index"])
    assert torch.equal(batch["image"], again["image"])
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first == second
    assert first.startswith("cannot decode train-000000.tar: 000000003.jpg: not an image")
    assert first.endswith("another image takes its place")


@pytest.mark.parametrize(
    ("bad", "fraction", "tolerated"),
    [
        (4, 0.0, True),
        (5, 0.0, False),
        (5, 0.1, False),
        (8, 0.2, True),
        (9, 0.2, False),
        (20, 1.0, True),
    ],
)
def test_so_many_damaged_images_end_the_run(damaged, bad, fraction, tolerated):
    loader = shard_data(damaged(range(bad)), **SMALL, max_bad_fraction=fraction).train_dataloader()
    if tolerated:
        assert sum(int(batch["substituted"].sum()) for batch in loader) == bad
    else:
        limit = max(4, int(40 * fraction))
        with pytest.raises(DataError, match=rf"At most {limit} images .*max_bad_fraction.*got {limit + 1}"):
            [None for _ in loader]


def test_a_set_of_nothing_but_damage_ends_the_run(damaged):
    with pytest.raises(DataError, match="substitutes in a row"):
        next(iter(shard_data(damaged(range(40)), **SMALL).train_dataloader()))


def load(shards, indices, sample, count):
    """Indices of what comes for this sample at many positions."""
    batches = BatchDataset(shards, indices, RandomCrop((16, 16)), LoaderSettings(**SMALL), "train")
    return batches.__getitems__([Place(0, n, sample) for n in range(count)])["index"].tolist()


def test_substitutes_come_from_the_same_shard(damaged):
    shards, some = damaged([9]), np.array([0, 3, 8, 9, 10, 13, 14, 39])  # shards are of 7
    found = load(shards, some, 9, 200)
    assert set(found) <= {8, 10, 13, 0, 3, 14, 39}
    assert sum(7 <= index < 14 for index in found) > 180  # four draws of four, one of which is bad
    assert found == load(shards, some, 9, 200)
    assert found[:3] != found[3:6]


def test_substitutes_of_a_damaged_shard_come_from_others(damaged):
    shards = damaged(range(7, 14))
    found = load(shards, np.arange(40), 9, 50)
    assert set(found).isdisjoint(range(7, 14))
    assert min(found) >= 0
    assert max(found) > 14 > 7 > min(found)


@pytest.fixture
def patched(shards, monkeypatch):
    """A set whose sample 11 does something when it is decoded."""
    original, victim = decode_image, shards.read(11)

    def patch(fault):
        def decode(data, *arguments, **options):
            if data == victim.data:
                fault()
            return original(data, *arguments, **options)

        monkeypatch.setattr(dataset, "decode", decode)
        return shards, f"{victim.shard}: {victim.key}.jpg"

    return patch


def spin():
    while True:
        pass


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.slow
def test_an_image_that_takes_for_ever_is_named(patched, monkeypatch, workers):
    monkeypatch.setattr(dataset, "_PATIENCE", 1)
    before = signal.signal(signal.SIGPROF, signal.SIG_IGN)  # whatever the trainer does with it
    try:
        shards, name = patched(spin)
        with pytest.raises(
            DataError, match=rf"exit codes: -27;.*-27 an image that took minutes.*reading: {name}\. Take"
        ):
            [None for _ in shard_data(shards, **SMALL, num_workers=workers).train_dataloader()]
    finally:
        signal.signal(signal.SIGPROF, before)


@pytest.mark.slow
def test_a_suspended_run_goes_on(patched, monkeypatch):
    monkeypatch.setattr(dataset, "_PATIENCE", 0.5)

    def suspend():
        subprocess.Popen(["sh", "-c", f"sleep 1.5; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)

    shards, _ = patched(suspend)
    began = time.monotonic()
    batches = list(shard_data(shards, **SMALL, num_workers=1).train_dataloader())
    assert time.monotonic() - began > 1.5  # it did stand still in the image
    assert sorted(index for batch in batches for index in batch["index"].tolist()) == list(range(40))


@pytest.mark.slow
def test_a_slow_trainer_is_no_hanging_image(shards, monkeypatch):
    monkeypatch.setattr(dataset, "_PATIENCE", 1)
    seen = 0
    for batch in shard_data(shards, **SMALL, num_workers=1).train_dataloader():
        time.sleep(1.2 if seen == 0 else 0)
        seen += len(batch["index"])
    assert seen == 40


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [MemoryError("no room"), ZeroDivisionError("a bug"), KeyError("a bug")])
def test_any_other_fault_names_the_image(patched, error, workers):
    def fault():
        raise error

    shards, name = patched(fault)
    with pytest.raises(type(error)) as caught:
        [None for _ in shard_data(shards, **SMALL, num_workers=workers).train_dataloader()]
    shown = str(caught.value) + "".join(getattr(caught.value, "__notes__", ()))
    assert f"The image is {name}." in shown
