import os

# Before anything imports gcsfs, which reads it then: else it asks Google about buckets, over gRPC and for minutes.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"

import pytest
from made_images import make_folder
from servers import file_server, forget_connections

from data.shards.local import ShardSet
from data.write.writer import WriteOptions, write_shards


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def shard_dir(folder, tmp_path_factory):
    dest = tmp_path_factory.mktemp("shards") / "set"
    write_shards(folder, dest, WriteOptions(resize=32, workers=1, shard_samples=7))
    return dest


@pytest.fixture
def shards(shard_dir):
    return ShardSet.open(shard_dir)


@pytest.fixture
def damaged(shard_dir, tmp_path):
    """A copy of the set in which some images turned to noise without a change in size."""

    def make(indices):
        for file in shard_dir.iterdir():
            (tmp_path / file.name).write_bytes(file.read_bytes())
        shards = ShardSet.open(tmp_path)
        for index in indices:
            record = shards.read(index)
            file = tmp_path / record.shard
            file.write_bytes(file.read_bytes().replace(record.data, bytes(len(record.data))))
        shards.close()
        return shards

    return make


@pytest.fixture
def own_connections():
    """Clients of servers that this test shares with no other."""
    forget_connections()


@pytest.fixture
def server(shard_dir, own_connections):
    """A file server with the set."""
    with file_server(shard_dir) as server:
        yield server
