import itertools

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from made_images import make_folder
from made_loaders import shard_data

from data.loading.normalise import normalise
from data.loading.sampler import EvalSampler, TrainSampler
from data.loading.views import RandomCrop
from data.order.epoch import EpochOrders
from data.order.subsets import split
from data.shards.local import ShardSet
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import ConfigError, DataError
from swinmim.training.module import TrainingModule

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*`isinstance.treespec, LeafSpec.`.*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`.*"),
]


def pretrain_data(shards, **changed):
    return shard_data(shards, *split(len(shards), 5, 0), **{"seed": 3, "batch_size": 4} | changed)


class Recorder(pl.LightningModule):
    """Learns nothing much and remembers every batch."""

    on_load_checkpoint = TrainingModule.on_load_checkpoint

    def __init__(self, stop_after=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.seen, self.stop_after = [], stop_after

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.stop_after:
            raise KeyError("killed")
        self.seen.append((batch["index"].tolist(), batch["seed"].tolist(), int(batch["image"].sum())))
        return ((normalise(batch["image"], (0.5,) * 3, (0.2,) * 3).mean((0, 2, 3)) - self.weight) ** 2).mean()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(
    shards,
    path,
    *,
    resume=None,
    workers=0,
    batch_size=4,
    stop_after=None,
    every=None,
    data=None,
    epochs=3,
    callbacks=(),
    **trainer,
):
    data = data or pretrain_data(shards, num_workers=workers, batch_size=batch_size)
    module = Recorder(stop_after)
    trainer = {"max_epochs": epochs} | trainer
    checkpoint = ModelCheckpoint(path, filename="{step}", every_n_train_steps=every, save_top_k=-1, save_last=False)
    pl.Trainer(
        accelerator="cpu",
        logger=False,
        callbacks=[*callbacks, *([checkpoint] if every else [])],
        enable_checkpointing=bool(every),
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=8 // batch_size,
        **trainer,
    ).fit(module, data, ckpt_path=resume, weights_only=True)
    return module


def samples(module):
    """(index, seed) in the order of training, whatever the micro-batches were."""
    return [pair for index, seed, _ in module.seen for pair in zip(index, seed, strict=True)]


@pytest.fixture(scope="module")
def uninterrupted(shard_dir):
    return fit(ShardSet.open(shard_dir), None)


def test_the_batch_contract(shards):
    data = pretrain_data(shards)
    data.setup("validate")
    batch = next(iter(data.train_dataloader()))
    assert {name: (value.dtype, tuple(value.shape)) for name, value in batch.items()} == {
        "image": (torch.uint8, (4, 16, 16, 3)),
        "seed": (torch.int64, (4,)),
        "index": (torch.int64, (4,)),
        "substituted": (torch.bool, (4,)),
        "label": (torch.int64, (4,)),
        "valid": (torch.bool, (4,)),
        "size": (torch.int64, (4, 2)),
    }
    assert batch["label"].tolist() == shards.labels[batch["index"]].tolist()
    assert set(batch["index"].tolist()) <= set(data.train_indices.tolist())


@pytest.mark.slow
def test_workers_do_not_change_the_batches(shards):
    per_worker = []
    for workers in (0, 2):
        loader = pretrain_data(shards, num_workers=workers).train_dataloader()
        per_worker.append([(b["index"].tolist(), b["image"].sum().item()) for b in loader])
    assert per_worker[0] == per_worker[1]
    assert len(per_worker[0]) == 8


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_ranks_together_read_the_global_batch(shards, world):
    train, _ = split(40, 5, 0)
    sizes = shards.sizes_of(train)
    assert sizes.sum() == 35

    def steps(world, size):
        ranks = [
            list(TrainSampler(train, EpochOrders(sizes, 8, 3), 8, size, rank=r, world=world)) for r in range(world)
        ]
        assert len({len(rank) for rank in ranks}) == 1
        accumulation = 8 // (world * size)
        return [
            [p for rank in ranks for micro in rank[s * accumulation : (s + 1) * accumulation] for p in micro]
            for s in range(4)
        ]

    assert steps(world, 1) == steps(1, 8)
    assert [place.position for step in steps(world, 1) for place in step] == list(range(32))


def test_evaluation_reads_everything_once_on_every_world(shards):
    for world, count, size in itertools.product((1, 2, 3, 4), (1, 3, 4, 11, 12, 25), (1, 3, 4)):
        chosen = np.arange(count) * 3 + 1
        ranks = [list(EvalSampler(chosen, size, rank=r, world=world)) for r in range(world)]
        assert {len(rank) for rank in ranks} == {-(-count // (size * world))}
        assert {len(batch) for rank in ranks for batch in rank} == {size}
        valid = [place.sample for rank in ranks for batch in rank for place in batch if place.valid]
        assert sorted(valid) == chosen.tolist()
    data = pretrain_data(shards)
    batches = list(data.val_dataloader())
    assert [batch["valid"].tolist() for batch in batches] == [[True] * 4, [True] + [False] * 3]
    again = list(data.val_dataloader())
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(batches, again, strict=True))
    assert all(torch.equal(a["seed"], b["seed"]) for a, b in zip(batches, again, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [2, 4, 5, 7])
def test_a_resumed_run_sees_what_is_left(shards, uninterrupted, tmp_path, workers, step):
    with pytest.raises(KeyError, match="killed"):
        fit(shards, tmp_path, workers=workers, every=1, stop_after=2 * step + 1)
    resumed = fit(shards, tmp_path, workers=workers, resume=tmp_path / f"step={step}.ckpt")
    assert len(uninterrupted.seen) == 3 * 4 * 2
    assert resumed.seen == uninterrupted.seen[2 * step :]
    assert torch.equal(resumed.weight, uninterrupted.weight)


@pytest.mark.parametrize("name", ["PretrainData", "ClassifyData"])
def test_checkpoints_that_name_an_earlier_class_are_resumed(shards, uninterrupted, tmp_path, name):
    fit(shards, tmp_path, every=1, max_steps=5)
    path = tmp_path / "step=5.ckpt"
    state = torch.load(path, weights_only=True)
    state[name] = state.pop("ShardData")
    torch.save(state, path)
    assert fit(shards, None, resume=path).seen == uninterrupted.seen[2 * 5 :]


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("step", [3, 6, 8])
def test_resume_with_other_micro_batches(shards, uninterrupted, tmp_path, batch_size, step):
    with pytest.raises(KeyError, match="killed"):
        fit(shards, tmp_path, every=1, stop_after=2 * step + 1)
    resumed = fit(shards, tmp_path, resume=tmp_path / f"step={step}.ckpt", batch_size=batch_size)
    assert samples(resumed) == samples(uninterrupted)[8 * step :]
    torch.testing.assert_close(resumed.weight, uninterrupted.weight)


def test_resume_of_training_counted_in_steps(shards, uninterrupted, tmp_path):
    fit(shards, tmp_path, every=1, max_steps=6, max_epochs=-1)
    for step in (3, 4, 6):
        resumed = fit(shards, tmp_path, resume=tmp_path / f"step={step}.ckpt", max_steps=12, max_epochs=-1)
        assert resumed.seen == uninterrupted.seen[2 * step :], step


class SaveAt(Callback):
    def __init__(self, path, hook):
        self.path, self.hook = path, hook
        setattr(self, hook, self._save)

    def _save(self, trainer, *_):
        if trainer.current_epoch == 1 and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("batch_size", [4, 2])
@pytest.mark.parametrize("limit", [{"epochs": 3}, {"epochs": -1, "max_steps": 12}])
@pytest.mark.parametrize("hook", ["on_train_epoch_end", "on_validation_end", "on_train_epoch_start"])
def test_resume_at_the_border_of_an_epoch(shards, uninterrupted, tmp_path, hook, limit, batch_size):
    path = tmp_path / "border.ckpt"
    whole = fit(shards, None, callbacks=[SaveAt(path, hook)], **limit)
    assert whole.seen == uninterrupted.seen
    resumed = fit(shards, None, resume=path, batch_size=batch_size, **limit)
    assert samples(resumed) == samples(uninterrupted)[{"on_train_epoch_start": 32}.get(hook, 64) :]
    torch.testing.assert_close(resumed.weight, uninterrupted.weight)


def test_the_position_in_an_epoch_that_max_steps_broke_off(shards, tmp_path):
    fit(shards, None, callbacks=[SaveAt(tmp_path / "end.ckpt", "on_train_epoch_end")], max_steps=6)
    state = torch.load(tmp_path / "end.ckpt", weights_only=True)["ShardData"]
    assert (state["epoch"], state["batches"]) == (1, 2)


@pytest.mark.parametrize("limit", [{}, {"max_steps": 12}])
def test_resume_of_a_run_resumed_at_the_border_of_an_epoch(shards, uninterrupted, tmp_path, limit):
    fit(shards, None, callbacks=[SaveAt(tmp_path / "border.ckpt", "on_train_epoch_end")], **limit)
    with pytest.raises(KeyError, match="killed"):
        fit(shards, tmp_path, resume=tmp_path / "border.ckpt", every=1, stop_after=5, **limit)
    again = fit(shards, tmp_path, resume=tmp_path / "step=10.ckpt", **limit)
    assert again.seen == uninterrupted.seen[2 * 10 :]


def test_a_changed_order_is_refused_with_the_way_out(shards, tmp_path):
    state = pretrain_data(shards).state_dict()
    with pytest.raises(DataError, match=r"(?s)seed: checkpoint 3, now 4.*start a new run"):
        pretrain_data(shards, seed=4).load_state_dict(state)
    with pytest.raises(DataError, match=r"global_batch: checkpoint 8, now 16 \(set the global_batch_size of that run"):
        pretrain_data(shards, global_batch=16).load_state_dict(state)
    make_folder(tmp_path / "in", 40)
    write_shards(tmp_path / "in", tmp_path / "out", WriteOptions(resize=24, workers=1))
    with pytest.raises(DataError, match=r"fingerprint: checkpoint .*point data.path at the shards"):
        pretrain_data(ShardSet.open(tmp_path / "out")).load_state_dict(state)


def test_sizes_that_do_not_fit(shards):
    with pytest.raises(DataError, match="global batch must not be larger"):
        pretrain_data(shards, global_batch=64)
    with pytest.raises(ConfigError, match="accumulate_grad_batches=4"):
        fit(shards, None, data=pretrain_data(shards, batch_size=2))


def test_more_processes_than_samples(shards, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "64")
    with pytest.raises(DataError, match="64 processes for 35 images"):
        pretrain_data(shards).setup("fit")


def test_sets_of_their_own_for_training_and_validation(shards):
    train, val = split(40, 10, 0)
    data = shard_data(
        shards, train, val, resolution=(24, 24), train_view=RandomCrop((24, 24), randaug="rand-m9-mstd0.5-inc1")
    )
    assert data.train.classes == shards.classes
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (8, 24, 24, 3)
    assert batch["label"].tolist() == shards.labels[batch["index"]].tolist()
    valid = [
        i for b in data.val_dataloader() for i, ok in zip(b["index"].tolist(), b["valid"].tolist(), strict=True) if ok
    ]
    assert valid == val.tolist()
