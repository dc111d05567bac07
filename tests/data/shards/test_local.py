"""Sets as they lie on a disk: those of earlier versions, and those with a target beside each image."""

import hashlib
import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from servers import file_server

from data.codecs.formats import SUFFIXES
from data.codecs.targets import MEMBERS, decode_target, encode_target
from data.shards.archive import TarWriter
from data.shards.cache import open_remote
from data.shards.local import ShardSet
from data.shards.manifest import Manifest, Shard, read_manifest
from data.shards.mixed import MixedSet
from data.shards.rows import INDEX, TARGET_INDEX, index_bytes
from data.write.index import index_tars
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import DataError

# Written by the version of this program that had no targets.
GOLDEN = Path(__file__).parents[2] / "golden" / "shards_v1"
SOURCES = ("cat/2.jpg", "dog/1.png", "cat/1.png")


def test_a_set_of_version_1_opens():
    shards = ShardSet.open(GOLDEN)
    assert (len(shards), shards.classes, shards.target, shards.streams) == (3, ("cat", "dog"), None, False)
    records = [shards.read(index) for index in range(3)]
    assert [(r.key, r.suffix, r.label, r.target) for r in records] == [
        ("000000000", "jpg", 0, b""),
        ("000000001", "png", 1, b""),
        ("000000002", "png", 0, b""),
    ]
    assert shards.sizes_of(np.array([0, 2])).tolist() == [2]


def test_a_set_without_targets_is_written_as_ever(tmp_path):
    shards = ShardSet.open(GOLDEN)
    for index, name in enumerate(SOURCES):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(shards.read(index).data)
    write_shards(tmp_path / "in", tmp_path / "out", WriteOptions(workers=1))
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == {
        file.name: file.read_bytes() for file in GOLDEN.iterdir()
    }


def test_an_index_of_tars_is_that_of_version_1(tmp_path):
    for name in ("train-000000.tar", "train-000000.index.npy"):
        (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    (tmp_path / "train-000000.index.npy").unlink()
    index_tars(tmp_path, classes=["cat", "dog"])
    assert (tmp_path / "train-000000.index.npy").read_bytes() == (GOLDEN / "train-000000.index.npy").read_bytes()
    written = json.loads((GOLDEN / "manifest.json").read_text())
    del written["plan"]
    text = json.dumps(written | {"options": {"indexed": True}}, indent=1) + "\n"
    assert (tmp_path / "manifest.json").read_text() == text


TARGETS = {
    "labels": np.array([[True, False], [False, False], [True, True]]),
    "value": np.array([[0.5, 1e-9], [-3, 0], [7, 8]], np.float32),
    "mask": np.array([np.eye(8), np.zeros((8, 8)), np.full((8, 8), 255)]).astype(np.uint8),
}


def write_targets(dest, kind="labels", change=None):
    """The golden set with a target beside each image."""
    plain, name = ShardSet.open(GOLDEN), "train-000000.tar"
    rows = []
    dest.mkdir()
    with TarWriter(dest / name) as tar:
        for index, target in enumerate(TARGETS[kind]):
            record, member = plain.read(index), encode_target(kind, target, 2)
            image = tar.add(f"{record.key}.{record.suffix}", record.data)
            beside = tar.add(f"{record.key}.{MEMBERS[kind]}", member)
            rows.append((image, len(record.data), -1, SUFFIXES.index(record.suffix), beside, len(member)))
        sha256 = tar.close()
    table = np.array(rows, TARGET_INDEX)
    if change is not None:
        table[change[0]][1] = change[1]
    index = index_bytes(table.tolist(), 2)
    shard = Shard(name, 3, tar.size, sha256, hashlib.sha256(index).hexdigest())
    (dest / shard.index_name).write_bytes(index)
    replace(read_manifest(GOLDEN)[1], target=kind, shards=(shard,)).write(dest)
    return ShardSet.open(dest)


@pytest.mark.parametrize("kind", TARGETS)
def test_targets_are_read_with_their_images(tmp_path, kind):
    shards, plain = write_targets(tmp_path / "set", kind), ShardSet.open(GOLDEN)
    assert (shards.target, shards.classes) == (kind, ("cat", "dog"))
    for index, target in enumerate(TARGETS[kind]):
        record = shards.read(index)
        assert record[:3] == plain.read(index)[:3]
        np.testing.assert_array_equal(decode_target(kind, record.target, 2), target)
    assert pickle.loads(pickle.dumps(shards)).read(1) == shards.read(1)
    mixed = MixedSet([shards, plain], [1, 1])
    assert (mixed.target, mixed.read(0).target) == (None, b"")  # as with labels: sets count different things


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sockets of the server
def test_targets_come_from_a_server_too(tmp_path, own_connections):
    shards = write_targets(tmp_path / "set")
    with file_server(tmp_path / "set") as server:
        remote = open_remote(server.url, tmp_path / "cache", 10**9, True)
        assert [remote.read(index) for index in range(3)] == [shards.read(index) for index in range(3)]
        assert pickle.loads(pickle.dumps(remote)).target == "labels"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("target_offset", value) for value in (0, 513, -512, 2**62)),
        *(("target_size", value) for value in (0, 2**32 - 1, 600_000)),
    ],
)
def test_rows_of_targets_that_cannot_be(tmp_path, field, value):
    with pytest.raises(DataError, match=rf"train-000000.index.npy: sample 1 cannot be .*'{field}': {value}"):
        write_targets(tmp_path / "set", change=(field, value))


def test_a_target_that_is_not_where_the_index_says_is_noticed(tmp_path):
    shards = write_targets(tmp_path / "set", change=("target_size", 1))
    assert shards.read(0).target == b"[0]"
    with pytest.raises(DataError, match="Sample 1 is not where the index says"):
        shards.read(1)


def test_an_index_of_the_other_version_is_refused(tmp_path):
    write_targets(tmp_path / "set")
    manifest = read_manifest(tmp_path / "set")[1]
    assert (manifest.version, INDEX.itemsize, TARGET_INDEX.itemsize) == (2, 17, 29)
    replace(manifest, target=None).write(tmp_path / "set")
    with pytest.raises(DataError, match=r"train-000000.index.npy: \d+ bytes, expected \d+"):
        ShardSet.open(tmp_path / "set")


def test_a_manifest_says_what_it_was_made_of(tmp_path):
    for version, target in ((1, None), (2, "boxes")):
        shard = Shard("a.tar", 1, 1024, "0" * 64, "1" * 64)
        made = Manifest(channels=1, bits=16, mean=(0.5,), std=(0.1,), target=target, classes=("a",), shards=(shard,))
        made.write(tmp_path)
        assert json.loads((tmp_path / "manifest.json").read_text())["version"] == version
        assert read_manifest(tmp_path)[1] == made
