import pickle

import numpy as np
import pytest
from made_images import make_folder
from made_loaders import shard_data

from data.config import MixConfig
from data.loading.ahead import Ahead
from data.loading.sampler import TrainSampler
from data.order.mixture import MixedOrder
from data.shards.local import ShardSet
from data.shards.mixed import MixedSet
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import ConfigError, DataError, TooFewImages


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
    assert mixed.sizes_of(np.arange(49)).tolist() == [7, 7, 7, 7, 7, 5, 4, 4, 1]
    one, two = mixed.sets
    assert mixed.mean[0] == pytest.approx(0.75 * one.mean[0] + 0.25 * two.mean[0])


def test_shares_are_rounded_to_whole_images(mixed):
    assert mixed.counts(8) == [6, 2]
    assert mixed.counts(12, lanes=4) == [8, 4]
    assert sum(mixed.counts(2047)) == 2047
    with pytest.raises(ConfigError, match="Raise the smallest weight"):
        MixedSet(mixed.sets, [1, 0.01]).counts(8)
    for weight in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="must be positive and finite"):
            MixedSet(mixed.sets, [1, weight])
        with pytest.raises(ValueError, match="must be positive and finite"):
            MixConfig(path="x", weight=weight)


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


@pytest.mark.slow
def test_batches_of_a_mixture(mixed):
    settings = {"resolution": (16, 16), "seed": 0, "global_batch": 8}
    one = [b["index"].tolist() for b in shard_data(mixed, batch_size=8, **settings).train_dataloader()]
    assert len(one) == 49 // 8
    assert all(sum(index >= 40 for index in batch) == 2 for batch in one)
    mixed = pickle.loads(pickle.dumps(mixed))  # as a loader that is spawned gets it
    two = [b["index"].tolist() for b in shard_data(mixed, batch_size=4, num_workers=2, **settings).train_dataloader()]
    assert [a + b for a, b in zip(two[::2], two[1::2], strict=True)] == one
    state = shard_data(mixed, batch_size=8, **settings).state_dict()
    other = shard_data(MixedSet(mixed.sets, [1, 1]), batch_size=8, **settings)
    with pytest.raises(DataError, match=r"mix: checkpoint \[6, 2\], now \[4, 4\]"):
        other.load_state_dict(state)


def test_a_set_smaller_than_its_share_is_named_with_the_way_out(mixed):
    small = mixed.sets[1].path
    with pytest.raises(DataError, match=rf"{small} has 9 training images, its share of .*=40 is 20\. A lower weight"):
        shard_data(MixedSet(mixed.sets, [1, 1]), resolution=(16, 16), seed=0, global_batch=40, batch_size=40)
    held_out = np.arange(45)  # five of its nine take part
    with pytest.raises(DataError, match=rf"{small} has 5 training images, its share of .*=24 is 6\."):
        shard_data(mixed, held_out, resolution=(16, 16), seed=0, global_batch=24, batch_size=24)
    assert shard_data(mixed, held_out, resolution=(16, 16), seed=0, global_batch=20, batch_size=20).steps_per_epoch == 2


def test_three_sets_in_lanes(mixed):
    one, two = mixed.sets
    three = MixedSet([one, two, one], [2, 1, 1])
    assert three.read(49 + 3).data == one.read(3).data
    data = shard_data(three, resolution=(16, 16), seed=0, global_batch=8, batch_size=8, lanes=2)
    batches = [b["index"].tolist() for b in data.train_dataloader()]
    assert len(batches) == 89 // 8
    for batch in batches:
        for lane in (batch[:4], batch[4:]):
            assert [sum(low <= n < high for n in lane) for low, high in ((0, 40), (40, 49), (49, 89))] == [2, 1, 1]
    with pytest.raises(ConfigError, match=r"data\.lanes must divide global_batch_size, got 3 for 8. Add data\.lanes=1"):
        shard_data(three, resolution=(16, 16), seed=0, global_batch=8, batch_size=8, lanes=3)


def test_a_part_that_is_smaller_than_its_share_is_named_and_what_fits_is_known(mixed):
    """Of 49 images, nine are in the part that gives a quarter of each batch."""
    assert mixed.counts(36) == [27, 9]
    assert mixed.shortage(np.arange(49), 36) is None
    with pytest.raises(TooFewImages, match=r"has 9 training images, its share of global_batch_size=40 is 10") as caught:
        shard_data(mixed, global_batch=40, batch_size=20)
    assert caught.value.images == 49
    assert caught.value.fits(36, 1)
    assert not caught.value.fits(39, 1)
    assert not caught.value.fits(36, 36)  # lanes of one image, none of the small part


def test_the_thread_that_fetches_ahead_has_a_mixed_order_of_its_own(mixed, monkeypatch):
    original, orders, coming = MixedOrder.batch, [], []

    def batch(order, *place):
        orders.append(order)
        return original(order, *place)

    class Reading(Ahead):
        def __init__(self, indices):
            self.indices = indices

        def advance(self):
            coming.append(next(self.indices).tolist())

        def stop(self):
            pass

    monkeypatch.setattr(MixedOrder, "batch", batch)
    sampler = TrainSampler(np.arange(49), mixed.order(np.arange(49), 8, 6, 1), 8, 8, ahead=Reading)
    assert [[place.sample for place in batch] for batch in sampler] == coming
    assert orders[::2] == [orders[0]] * 6
    assert orders[1::2] == [orders[1]] * 6
    assert orders[0] is not orders[1]
