import numpy as np
import pytest
from made_images import make_folder

from data.mix import MixedOrder, MixedSet
from data.modules import PretrainData
from data.shards import ShardSet
from data.write import WriteOptions, write_shards
from swinmim.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def mixed(shard_dir, tmp_path_factory):
    root = tmp_path_factory.mktemp("other")
    write_shards(
        make_folder(root / "in", 9, classes=()), root / "out", WriteOptions(resize=32, workers=1, shard_samples=4)
    )
    return MixedSet([ShardSet.open(shard_dir), ShardSet.open(root / "out")], [3, 1])


def test_a_mixture_is_its_sets_one_after_the_other(mixed):
    assert len(mixed) == 49
    assert mixed.read(41).data == mixed.sets[1].read(1).data
    assert mixed.locate(41) == (6, "train-000000.tar")
    assert mixed.sizes_of(np.arange(49)).tolist() == [7, 7, 7, 7, 7, 5, 4, 4, 1]
    one, two = mixed.sets
    assert mixed.mean[0] == pytest.approx(0.75 * one.mean[0] + 0.25 * two.mean[0])


def test_shares_are_rounded_to_whole_images(mixed):
    assert mixed.counts(8) == [6, 2]
    assert mixed.counts(12, lanes=4) == [8, 4]
    assert sum(mixed.counts(2047)) == 2047
    with pytest.raises(ConfigError, match="Raise the smallest weight"):
        MixedSet(mixed.sets, [1, 0.01]).counts(8)
    with pytest.raises(ConfigError, match="must be positive"):
        MixedSet(mixed.sets, [1, 0])


@pytest.mark.parametrize("lanes", [1, 2])
def test_the_order_of_a_mixture_is_pure_and_fair(lanes):
    sizes = [np.array([10, 0, 20]), np.array([7, 6])]
    whole = MixedOrder(sizes, [6, 2], 5, 1, lanes=lanes)
    batches = [whole.batch(epoch, step) for epoch in range(4) for step in range(5)]
    again = MixedOrder(sizes, [6, 2], 5, 1, lanes=lanes)
    for number in reversed(range(20)):
        np.testing.assert_array_equal(again.batch(*divmod(number, 5)), batches[number])
    assert all((batch < 30).sum() == 6 and len(set(batch.tolist())) == 8 for batch in batches)
    # 5 batches of 6 are one round of the 30, 6 batches of 2 one round of the 13 but one
    assert sorted(n for batch in batches[:5] for n in batch.tolist() if n < 30) == list(range(30))
    assert len({n for batch in batches[:6] for n in batch.tolist() if n >= 30}) == 12


def test_batches_of_a_mixture(mixed):
    settings = {"resolution": (16, 16), "seed": 0, "global_batch": 8}
    one = [b["index"].tolist() for b in PretrainData(mixed, batch_size=8, **settings).train_dataloader()]
    assert len(one) == 49 // 8
    assert all(sum(index >= 40 for index in batch) == 2 for batch in one)
    two = [b["index"].tolist() for b in PretrainData(mixed, batch_size=4, num_workers=2, **settings).train_dataloader()]
    assert [a + b for a, b in zip(two[::2], two[1::2], strict=True)] == one
    state = PretrainData(mixed, batch_size=8, **settings).state_dict()
    other = PretrainData(MixedSet(mixed.sets, [1, 1]), batch_size=8, **settings)
    with pytest.raises(DataError, match=r"mix: checkpoint \[6, 2\], now \[4, 4\]"):
        other.load_state_dict(state)
