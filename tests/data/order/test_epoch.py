import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_loaders import shard_data

from data.loading.sampler import TrainSampler
from data.order.epoch import EpochOrder, EpochOrders, ShardStarts, accumulation, epoch_batches
from data.order.hashing import key, permutation, sample_seeds, shuffle, uniform, words
from data.order.subsets import few_labels, split
from swinmim.errors import ConfigError, DataError

GOLDEN_PERMUTATION = [5, 2, 4, 1, 0, 3]
GOLDEN_BATCH = [8, 0, 5, 10]
GOLDEN_BLOCKS = [7, 28, 26, 2, 37, 16, 18, 39]
GOLDEN_SEEDS = [2969994534387019325, 2030862129053420349]

sizes = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(lambda s: sum(s) >= 24)


def epoch(shard_sizes, global_batch, seed, number, **options):
    order = EpochOrder(shard_sizes, global_batch, seed, number, **options)
    return np.concatenate([order.batch(step) for step in range(order.batches)])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(any),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.integers(1, 9),
    st.integers(0, 5),
    st.data(),
)
@pytest.mark.slow
def test_ranks_share_an_epoch_without_repeats_and_leave_out_less_than_a_batch(
    shard_sizes, world, lanes, block, seed, data
):
    """Any shards, global batches odd ones too, accumulation, and entry in the middle; through the sampler."""
    samples, unit = sum(shard_sizes), math.lcm(world, lanes)
    if samples < unit:
        shard_sizes, samples = [*shard_sizes, unit], samples + unit
    global_batch = unit * data.draw(st.integers(1, samples // unit), "units")
    share = global_batch // world
    size = data.draw(st.sampled_from([n for n in range(1, share + 1) if share % n == 0]), "batch size")
    micro = share // size

    def sampler(size, rank=0, world=1, start=0):
        indices = 3 * np.arange(samples)  # some samples take no part
        order = EpochOrders(shard_sizes, global_batch, seed, lanes=lanes, block=block)
        sampler = TrainSampler(indices, order, global_batch, size, rank=rank, world=world)
        sampler.seek(1, start)
        return sampler

    alone = [list(batch) for batch in sampler(global_batch)]
    order = EpochOrder(shard_sizes, global_batch, seed, 1, lanes=lanes, block=block)
    for step, batch in enumerate(alone):
        assert [place.sample for place in batch] == (3 * order.batch(step)).tolist()
    ranks = [list(sampler(size, rank, world)) for rank in range(world)]
    steps = samples // global_batch
    assert {len(rank) for rank in ranks} == {len(sampler(size, 0, world))} == {steps * micro}
    assert {len(batch) for rank in ranks for batch in rank} == {size}
    together = [
        [place for rank in ranks for batch in rank[step * micro : (step + 1) * micro] for place in batch]
        for step in range(steps)
    ]
    assert together == alone
    places = [place for step in together for place in step]
    assert [place.position for place in places] == list(range(steps * global_batch))
    seen = {place.sample for place in places}
    assert len(seen) == len(places) > samples - global_batch
    assert seen <= set(range(0, 3 * samples, 3))
    start = data.draw(st.integers(0, steps * micro), "start")
    assert list(sampler(size, world - 1, world, start)) == ranks[-1][start:]


@pytest.mark.filterwarnings("ignore:.*will create 4 worker processes")  # more than a small machine has cores
@pytest.mark.parametrize(("world", "batch_size", "lanes"), [(1, 3, 1), (3, 1, 3), (3, 3, 1)])
@pytest.mark.slow
def test_any_number_of_workers_loads_the_same_batches(shards, monkeypatch, world, batch_size, lanes):
    """Bit for bit through the stock loader, with an odd global batch."""
    monkeypatch.setenv("WORLD_SIZE", str(world))
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        runs = []
        for workers in (0, 1, 2, 4):
            data = shard_data(
                shards,
                resolution=(8, 8),
                seed=1,
                global_batch=9,
                batch_size=batch_size,
                lanes=lanes,
                num_workers=workers,
            )
            batches: list[dict[str, Any]] = [dict(batch) for batch in data.train_dataloader()]
            runs.append([{name: value.tolist() for name, value in batch.items()} for batch in batches])
        assert len(runs[0]) == 4 * 9 // (world * batch_size)
        assert runs[1:] == runs[:1] * 3


@pytest.mark.parametrize(("lanes", "block"), [(1, 8), (1, 2), (2, 2), (5, 1)])
@pytest.mark.slow
def test_every_place_and_every_gap_is_as_likely_for_every_sample(lanes, block):
    samples, global_batch, epochs = 103, 10, 400
    when, left_out = np.zeros((samples, 10)), np.zeros(samples)
    for number in range(epochs):
        order = epoch([0, 20, 1, 40, 0, 2, 30, 10], global_batch, 1, number, lanes=lanes, block=block)
        when[order, np.arange(len(order)) // global_batch] += 1
        left_out += np.isin(np.arange(samples), order, invert=True)

    def chi_square(counts):
        """Over its degrees of freedom: 1 for independent draws, a little less where places exclude each other."""
        expected = counts.mean()
        return ((counts - expected) ** 2 / expected).sum() / (counts.size - 1)

    assert 0.75 < chi_square(when) < 1.05  # 0.9 expected, +- 0.04
    assert 0.6 < chi_square(left_out) < 1.4  # +- 0.14


@pytest.mark.parametrize("shards", [9, 10, 17])
def test_the_end_of_an_epoch_is_as_mixed_as_its_beginning(shards):
    """Class-sorted shards: a short last block would hold the one to three that are left over."""
    owner = np.repeat(np.arange(shards), 500)
    for number in range(3):
        order = EpochOrder([500] * shards, 64, 0, number)
        assert min(len(np.unique(owner[order.batch(step)])) for step in range(order.batches)) >= 7


def test_lanes_keep_ranks_on_shards_of_their_own():
    owner = np.repeat(np.arange(16), 10)
    order = EpochOrder([10] * 16, 8, 0, 0, lanes=2, block=4)  # two blocks of 40 in each lane of 80
    for block in range(2):
        steps = [order.batch(step) for step in range(block * 10, (block + 1) * 10)]
        ranks = [{int(owner[n]) for batch in steps for n in batch[4 * rank : 4 * rank + 4]} for rank in range(2)]
        assert not ranks[0] & ranks[1]
        assert all(4 <= len(rank) <= 5 for rank in ranks)


@settings(max_examples=30, deadline=None)
@given(sizes, st.sampled_from([1, 2, 4, 8]), st.integers(0, 1000))
def test_any_step_can_be_asked_alone(shard_sizes, lanes, seed):
    whole = epoch(shard_sizes, 24, seed, 3, lanes=lanes, block=2)
    order = EpochOrder(shard_sizes, 24, seed, 3, lanes=lanes, block=2)
    for step in reversed(range(order.batches)):
        np.testing.assert_array_equal(order.batch(step), whole[step * 24 : (step + 1) * 24])


def test_epochs_and_seeds_differ_and_the_left_out_samples_change():
    orders = [epoch([100], 32, seed, number) for seed in range(2) for number in range(20)]
    assert len({tuple(order) for order in orders}) == 40
    left_out = set().union(*(set(range(100)) - set(order.tolist()) for order in orders))
    assert len(left_out) > 60


def test_a_block_of_all_shards_shuffles_everything():
    order = epoch([10] * 8, 80, 0, 0, block=8)
    assert abs(np.corrcoef(order, np.arange(80))[0, 1]) < 0.4
    assert len({n // 10 for n in order[:20]}) >= 5


def test_the_order_never_changes_between_versions():
    assert permutation(6, "golden", 1).tolist() == GOLDEN_PERMUTATION
    assert EpochOrder([3, 4, 5], 4, 7, 2).batch(1).tolist() == GOLDEN_BATCH
    assert EpochOrder([5] * 11, 8, 7, 2, lanes=2, block=2).batch(1).tolist() == GOLDEN_BLOCKS
    assert sample_seeds(7, 2, np.arange(2)).tolist() == GOLDEN_SEEDS


def test_seeds_are_distinct_and_not_negative():
    seeds = np.concatenate([sample_seeds(1, e, np.arange(5000), p) for e in range(3) for p in ("train", "eval")])
    assert seeds.min() >= 0
    assert len(np.unique(seeds)) == len(seeds)


def test_single_numbers_are_those_of_the_whole_sequence():
    for seed in (0, 1, 2**63 - 1):
        whole = (words(seed, np.arange(40)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        assert [uniform(seed, n) for n in range(40)] == whole.tolist()


def test_keys_tell_text_from_numbers():
    assert len({key(1, 2), key("1", 2), key(12), key("12"), key("1", "2")}) == 5


def test_an_order_knows_its_number_of_batches():
    order = EpochOrder([2500] * 600, 2048, 0, 0)
    assert epoch_batches(1_500_000, 2048) == order.batches


def test_the_billionth_sample_is_found_without_the_ones_before_it():
    shards = ShardStarts([2600] * 400_000)  # how fast: benchmarks/bench_data.py
    batch = EpochOrder(shards, 1024, 0, 3).batch(10**9 // 1024)
    assert len(np.unique(batch)) == 1024
    assert 0 <= batch.min() <= batch.max() < 2600 * 400_000


@pytest.mark.parametrize("count", [1, 2, 3, 17, 1000])
def test_shuffle_is_a_fair_permutation(count):
    landed = shuffle(np.arange(count), count, words(1, np.arange(300)[:, None]))
    np.testing.assert_array_equal(np.sort(landed, axis=1), np.broadcast_to(np.arange(count), (300, count)))
    if count >= 17:
        means = landed.mean(0)  # of every place over 300 keys
        assert np.abs(means - (count - 1) / 2).max() < 5 * count / 12**0.5 / 300**0.5
        correlation = np.mean([np.corrcoef(row, np.arange(count))[0, 1] for row in landed])
        assert abs(correlation) < 4 / (300 * count) ** 0.5


def test_more_shards_than_runs_still_give_every_sample_once():
    shard_sizes = np.random.default_rng(0).integers(0, 4, 3000)
    order = epoch(shard_sizes, 64, 3, 5, lanes=4)
    assert len(np.unique(order)) == len(order) > shard_sizes.sum() - 64


def test_more_empty_shards_than_samples():
    assert sorted(epoch([0] * 999 + [24], 8, 0, 0, block=1)) == list(range(24))


def test_a_batch_is_read_from_few_shards():
    owner = np.repeat(np.arange(2000), 50)
    order = EpochOrder([50] * 2000, 400, 0, 0, block=8)
    assert max(len(np.unique(owner[order.batch(step)])) for step in range(order.batches)) <= 20


def test_accumulation_and_its_nearest_legal_values():
    assert accumulation(2048, 8, 64) == 4
    with pytest.raises(ConfigError, match=r"global_batch_size=96 or 144.*batch_size=10 or 25"):
        accumulation(100, 2, 24)
    with pytest.raises(ConfigError, match="at least 1"):
        accumulation(0, 1, 1)


def test_split_is_disjoint_complete_and_keyed():
    train, val = split(100, 0.1, 0)
    assert (len(train), len(val)) == (90, 10)
    assert sorted([*train, *val]) == list(range(100))
    assert split(100, 10, 1)[1].tolist() != val.tolist()
    with pytest.raises(DataError, match="leave samples"):
        split(10, 10, 0)


def test_few_labels():
    labels = np.array([0, 0, 0, 1, 1, -1, 1])
    chosen = few_labels(labels, 2, 0)
    assert labels[chosen].tolist().count(0) == labels[chosen].tolist().count(1) == 2
    with pytest.raises(DataError, match=r"too few in class: 0 \(3\), 1 \(3\)"):
        few_labels(labels, 4, 0)


def test_wrong_calls():
    with pytest.raises(DataError, match="global batch must not be larger"):
        EpochOrder([3], 4, 0, 0)
    with pytest.raises(ConfigError, match=r"data\.lanes must divide"):
        EpochOrder([8], 4, 0, 0, lanes=3)
    with pytest.raises(IndexError):
        EpochOrder([8], 4, 0, 0).batch(2)
