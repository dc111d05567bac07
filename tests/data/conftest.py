import pytest
from made_images import make_folder

from data.shards import ShardSet
from data.write import WriteOptions, write_shards


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
