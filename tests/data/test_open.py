"""From settings to the loaders of a run."""

import dataclasses
import shutil

import numpy as np
import pytest
from made_images import make_folder

from data.config import DataConfig, LabelledDataConfig, MixConfig
from data.loading.module import ShardData, StreamData
from data.loading.views import CenterCrop, RandomCrop
from data.open import labelled_parts, loader_settings, num_labelled, num_listed, open_data, pretrain_data
from data.order.subsets import split
from data.shards.local import ShardSet
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import ConfigError, DataError

SIZE = (16, 16)
VIEWS = RandomCrop(SIZE), CenterCrop(SIZE, 1.0)
COMMON = {
    "val_ratio": 0.25, "cache_dir": None, "pack_resize": None, "pack_quality": 95, "stats": "auto", "num_workers": 0,
    "max_bad_fraction": 0.5, "lanes": 2, "decoder": "pil",
}  # fmt: skip


def settings(config):
    return loader_settings(config, SIZE, seed=3, global_batch=4, batch_size=2)


def pretrained(path, **changed):
    config = DataConfig(path=str(path), **COMMON | changed)
    return pretrain_data(config, open_data(config), *VIEWS, settings(config))


def labelled(path, *, channels=3, needs="label", **changed):
    config = LabelledDataConfig(path=str(path), **{"val_path": None, "labels_per_class": None} | COMMON | changed)
    parts = labelled_parts(config, seed=3, channels=channels, needs=needs)
    return ShardData(*parts, *VIEWS, settings(config))


def test_the_loaders_are_as_the_settings_say(shard_dir):
    data = pretrained(shard_dir)
    assert isinstance(data, ShardData)
    asked = data.settings
    assert (asked.resolution, asked.seed, asked.global_batch, asked.batch_size) == (SIZE, 3, 4, 2)
    assert (asked.num_workers, asked.max_bad_fraction, asked.lanes, asked.decoder) == (0, 0.5, 2, "pil")
    train, held_out = split(40, 0.25, seed=0)
    assert data.train_indices.tolist() == train.tolist()
    assert data.val_indices.tolist() == held_out.tolist()
    assert (data.num_train, data.num_val) == (30, 10)
    assert (data.train_view, data.eval_view) == VIEWS


@pytest.mark.parametrize(("cores", "processes", "expected"), [(64, 1, 8), (64, 8, 7), (8, 2, 3), (2, 1, 1), (1, 4, 1)])
def test_loader_processes_follow_the_machine(cores, processes, expected, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))
    config = DataConfig(path="x", **COMMON | {"num_workers": None})
    asked = loader_settings(config, SIZE, seed=3, global_batch=4, batch_size=2, processes=processes)
    assert asked.num_workers == expected
    with pytest.raises(ValueError, match="num_workers must not be negative"):
        DataConfig(path="x", **COMMON | {"num_workers": -1})


def test_the_limit_of_pixels_holds_in_the_run(shard_dir):
    with pytest.raises(DataError, match="several substitutes in a row"):
        list(pretrained(shard_dir, max_pixels=32 * 32, max_bad_fraction=1).train_dataloader())


def test_a_stream_holds_nothing_out(shard_dir):
    data = pretrained(shard_dir, streaming_samples=12, lanes=1)
    assert isinstance(data, StreamData)
    assert (data.num_train, data.num_val, data.steps_per_epoch) == (12, 0, 3)
    assert data.val_dataloader() == []
    assert data.sample_names([-1]) == []
    assert len(list(data.train_dataloader())) == 6


def test_one_labelled_set_is_divided(shard_dir):
    data = labelled(shard_dir)
    train, held_out = split(40, 0.25, seed=0)
    assert data.train is data.val
    assert data.train_indices.tolist() == train.tolist()
    assert data.val_indices.tolist() == held_out.tolist()
    assert data.train.classes == ShardSet.open(shard_dir).classes


def test_a_set_of_its_own_for_validation(shard_dir, tmp_path):
    shutil.copytree(shard_dir, tmp_path / "val")
    data = labelled(shard_dir, val_path=str(tmp_path / "val"))
    assert (data.num_train, data.num_val) == (40, 40)
    assert data.val.path == tmp_path / "val"


def test_few_labels_of_the_part_that_is_not_held_out(shard_dir):
    data = labelled(shard_dir, labels_per_class=3)
    labels = data.train.labels[data.train_indices]
    assert np.bincount(labels).tolist() == [3, 3]
    assert not set(data.train_indices.tolist()) & set(data.val_indices.tolist())
    assert data.num_val == 10


def test_sets_that_do_not_fit_are_refused(shard_dir, tmp_path):
    with pytest.raises(ConfigError, match="has 3 channels and the encoder takes 5"):
        labelled(shard_dir, channels=5)
    make_folder(tmp_path / "in", 12, classes=("cat", "cow"))
    write_shards(tmp_path / "in", tmp_path / "other", WriteOptions(workers=1))
    with pytest.raises(DataError, match=r"must have the same classes; .* and .*other differ"):
        labelled(shard_dir, val_path=str(tmp_path / "other"))
    make_folder(tmp_path / "plain", 12, classes=())
    write_shards(tmp_path / "plain", tmp_path / "unlabelled", WriteOptions(workers=1))
    with pytest.raises(DataError, match="finetune needs labels"):
        labelled(tmp_path / "unlabelled")
    assert labelled(tmp_path / "unlabelled", needs="nothing").num_train == 9
    with pytest.raises(DataError, match=r"needs boxes with each image; .*unlabelled has none\. Write the set from"):
        labelled(tmp_path / "unlabelled", needs="boxes")


@pytest.mark.parametrize(("needs", "word"), [("mask", "DIR/train/masks"), ("boxes", "a COCO file")])
def test_a_folder_without_what_the_task_needs_is_named_before_it_is_packed(tmp_path, needs, word):
    make_folder(tmp_path / "in", 12)
    with pytest.raises(DataError, match=rf"needs {needs} with each image; .*/in has none\. Give .*{word}"):
        labelled(tmp_path / "in", needs=needs, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()
    with pytest.raises(DataError, match="nowhere"):  # not for want of masks
        labelled(tmp_path / "nowhere", needs=needs)


def test_a_validation_set_of_its_own_may_lack_classes(shard_dir, tmp_path):
    make_folder(tmp_path / "in", 12, classes=("cat",))
    classes = labelled(shard_dir).train.classes
    assert len(classes) == 2
    own = labelled(shard_dir, val_path=str(tmp_path / "in"), cache_dir=str(tmp_path / "cache"))
    assert own.val.classes == classes


def test_streaming_and_mixing_are_for_pretraining(shard_dir):
    config = LabelledDataConfig(path="x", val_path=None, labels_per_class=None, **COMMON | {"lanes": 1})
    with pytest.raises(ValueError, match="mix and streaming_samples are for pretraining"):
        dataclasses.replace(config, streaming_samples=9)
    with pytest.raises(ValueError, match="no effect with streaming_samples"):
        DataConfig(path="x", **COMMON, streaming_samples=9)


@pytest.mark.parametrize(("needs", "read"), [("nothing", False), ("label", False), ("boxes", True)])
def test_a_target_that_nothing_needs_is_not_read(needs, read):
    config = DataConfig(path="x", **COMMON)
    asked = loader_settings(config, SIZE, seed=3, global_batch=4, batch_size=2, needs=needs)
    assert asked.targets is read


def test_a_set_of_its_own_for_validation_is_all_that_is_packed_beside_the_training_set(tmp_path):
    """Though there is a folder that would be taken without it."""
    for name in ("in/train", "in/val", "own"):
        make_folder(tmp_path / name, 6)
    config = LabelledDataConfig(
        path=str(tmp_path / "in"), val_path=str(tmp_path / "own"), labels_per_class=None,
        **COMMON | {"cache_dir": str(tmp_path / "cache")},
    )  # fmt: skip
    labelled_parts(config, seed=0, channels=3, needs="label")
    packed = sorted(path.name.partition("-")[0] for path in (tmp_path / "cache").iterdir() if path.name[0] != ".")
    assert packed == ["own", "train"]


def test_images_are_counted_before_they_are_packed(shard_dir, tmp_path):
    for name in ("train", "val"):
        make_folder(tmp_path / "in" / name, 12)
    (tmp_path / "list.csv").write_text("path\n" + "".join(f"in/train/cat/{n:04d}.jpg\n" for n in range(0, 12, 2)))
    cache = COMMON | {"cache_dir": str(tmp_path / "cache"), "lanes": 1}
    for path, images in ((shard_dir, 30), (tmp_path / "in", 18), (tmp_path / "list.csv", 4)):
        assert num_listed(DataConfig(path=str(path), **cache)) == images, path
    mixed = (MixConfig(path=str(shard_dir), weight=1.0),)
    assert num_listed(DataConfig(path=str(tmp_path / "in"), mix=mixed, **cache)) == 48
    assert num_listed(DataConfig(path="x", streaming_samples=9, **cache)) == 9
    assert num_listed(DataConfig(path="builtin:digits", **cache)) == 1348
    few = LabelledDataConfig(path=str(tmp_path / "in"), val_path=None, labels_per_class=None, **cache)
    assert num_labelled(few, "label") == 12
    assert num_labelled(dataclasses.replace(few, labels_per_class=3), "label") == 6
    assert num_labelled(dataclasses.replace(few, path=str(shard_dir)), "label") == 30
    assert num_labelled(dataclasses.replace(few, path=str(shard_dir), val_path="x"), "label") == 40
    assert not (tmp_path / "cache").exists()
