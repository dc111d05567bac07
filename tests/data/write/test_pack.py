import errno
import pickle

import pytest
from made_images import make_folder

from data.config import DataConfig
from data.open import open_labelled, open_source
from data.shards.local import ShardSet
from data.write.pack import pack
from data.write.writer import WriteOptions
from swinmim.errors import DataError

FAST = WriteOptions(resize=32, workers=1)


def settings(cache):
    return DataConfig(
        path="x", val_ratio=0.1, cache_dir=str(cache), pack_resize=32, pack_quality=95, stats="auto", num_workers=0,
        max_bad_fraction=0,
    )  # fmt: skip


def test_a_folder_is_packed_once(tmp_path, capsys):
    source = make_folder(tmp_path / "in", 6)
    first = pack(source, tmp_path / "cache", FAST)
    assert "found 6 images in 2 folders, 0 skipped, 2 classes; packed into" in capsys.readouterr().out
    assert pack(source, tmp_path / "cache", FAST) == first
    assert "using the packed images" in capsys.readouterr().out
    assert pack(source, tmp_path / "cache", WriteOptions(resize=16, workers=1)) != first
    (source / "cat" / "0000.jpg").unlink()
    assert pack(source, tmp_path / "cache", FAST) != first
    assert not list((tmp_path / "cache").glob("*partial*"))


@pytest.mark.parametrize(("labels", "target"), [("label", None), ("labels", "labels")])
def test_a_list_is_packed_once(tmp_path, labels, target):
    make_folder(tmp_path / "in", 6)
    names = [f"in/cat/{number:04}.jpg" for number in (0, 2)]
    path = tmp_path / "list.csv"
    path.write_text(f"path,{labels}\n{names[0]},one\n{names[1]},two\n")
    first = pack(path, tmp_path / "cache", FAST)
    shards = ShardSet.open(first)
    assert len(shards) == 2
    assert shards.target == target
    assert shards.classes == ("one", "two")
    assert pack(path, tmp_path / "cache", FAST) == first
    path.write_text(f"path,{labels}\n{names[0]},one\n{names[1]},{'one' if target is None else 'one|two'}\n")
    assert pack(path, tmp_path / "cache", FAST) != first


def test_other_files_are_told_how_they_become_sets(tmp_path):
    (tmp_path / "a.tar").touch()
    with pytest.raises(DataError, match=r"got the file .*a\.tar\. Tars are written first: python -m data\.write"):
        pack(tmp_path / "a.tar", tmp_path / "cache", FAST)


@pytest.mark.parametrize("cache", ["file", "file/below"])
def test_a_cache_that_cannot_be_written_is_said(tmp_path, cache):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"packed into data\.cache_dir, but .*file.* cannot be written"):
        pack(make_folder(tmp_path / "in", 6), tmp_path / cache, FAST)


def test_a_failed_pack_leaves_nothing_to_reuse(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()
    for _ in range(2):
        with pytest.raises(DataError, match="No usable image"):
            pack(tmp_path / "in", tmp_path / "cache", FAST)


def test_shard_sets_are_used_as_they_are(shard_dir, tmp_path):
    assert open_source(shard_dir, settings(tmp_path / "cache")).path == shard_dir
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_digits(tmp_path):
    digits = open_source("builtin:digits", settings(tmp_path))
    assert len(digits) == 1797
    assert digits.classes == tuple("0123456789")
    assert set(digits.labels.tolist()) == set(range(10))
    again = open_source("builtin:digits", settings(tmp_path / "other"))
    assert again.fingerprint == digits.fingerprint
    with pytest.raises(DataError, match="built-in sets are: builtin:digits"):
        open_source("builtin:letters", settings(tmp_path))


def test_train_and_val_folders(tmp_path, capsys):
    make_folder(tmp_path / "in" / "train", 8)
    make_folder(tmp_path / "in" / "val", 1, classes=("dog",))
    train, val = open_labelled(str(tmp_path / "in"), settings(tmp_path / "cache"), "label")
    assert (len(train), len(val)) == (8, 1)
    assert val.classes == train.classes
    assert val.labels.tolist() == [1]
    make_folder(tmp_path / "in" / "val", 1, classes=("bird",))
    with pytest.raises(DataError, match=r"same classes.*bird"):
        open_labelled(str(tmp_path / "in"), settings(tmp_path / "cache"), "label")


def test_finetuning_needs_labels(tmp_path):
    source = make_folder(tmp_path / "in", 4, classes=())
    with pytest.raises(DataError, match="finetune needs labels"):
        open_labelled(str(source), settings(tmp_path / "cache"), "label")


def test_a_full_disk_is_named_and_packing_goes_on_where_it_was(tmp_path, monkeypatch):
    source = make_folder(tmp_path / "in", 6, classes=())

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr("os.fsync", full)
        with pytest.raises(DataError, match=r"packed into data\.cache_dir.*\(No space left on device\)"):
            pack(source, tmp_path / "cache", FAST)
    assert len(ShardSet.open(pack(source, tmp_path / "cache", FAST))) == 6


def test_a_set_travels_to_a_worker(shards):
    shards.read(0)
    copy = pickle.loads(pickle.dumps(shards))
    assert isinstance(copy, ShardSet)
    assert copy.read(3) == shards.read(3)
