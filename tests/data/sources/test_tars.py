import json
import os

import numpy as np
import pytest
from made_images import make_folder
from made_tars import jpeg, tar

from data.codecs.bands import npy_bytes
from data.shards.local import ShardSet
from data.sources.find import find_source
from data.write.__main__ import main
from data.write.index import index_tars
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import DataError

FAST = WriteOptions(resize=None, workers=1)


def test_shards_are_written_again_with_their_classes(shard_dir, shards, tmp_path):
    report = write_shards(find_source(str(shard_dir)), tmp_path / "out", WriteOptions(resize=None, workers=1))
    again = ShardSet.open(tmp_path / "out")
    assert again.classes == shards.classes == ("cat", "dog")
    assert {again.read(i).data: again.read(i).label for i in range(40)} == {
        shards.read(i).data: shards.read(i).label for i in range(40)
    }
    assert str(report).endswith("0 skipped, 2 classes")
    assert find_source(str(shard_dir / "train-000001.tar")).classes == ("cat", "dog")


def test_labels_beyond_the_manifest_are_refused(shard_dir, tmp_path):
    for file in shard_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"classes": ["cat"]}))
    with pytest.raises(DataError, match="has 1: it knows 1 class names"):
        find_source(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")  # another program's
    assert find_source(str(tmp_path)).classes == ("0", "1")


def test_sets_of_16_bits_are_written_again_as_they_are(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(2):
        (tmp_path / "in" / f"{number}.npy").write_bytes(npy_bytes(rng.integers(0, 9999, (9, 9, 5), dtype=np.uint16)))
    deep = ["--channels", "5", "--bits", "16", "--value-range", "0", "10000", "--resize", "none"]
    assert main([str(tmp_path / "in"), str(tmp_path / "a"), *deep]) == 0
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--resize", "none"]) == 0
    one, two = ShardSet.open(tmp_path / "a"), ShardSet.open(tmp_path / "b")
    assert (two.channels, two.bits, two.mean) == (5, 16, one.mean)
    assert {one.read(i).data for i in range(2)} == {two.read(i).data for i in range(2)}
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["value_range"] == [0, 10000]
    capsys.readouterr()
    assert main([str(tmp_path / "a"), str(tmp_path / "c"), *deep]) == 2
    assert "--value-range is for new images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "labels"),
    [
        ([("a.jpg", 0), ("a.cls", b"0"), ("b.jpg", 1), ("b.cls", b"1"), ("c.jpg", 2)], {0: 0, 1: 1, 2: -1}),
        ([("a.jpg", 0), ("a.cls", b"3"), ("b.jpg", 1), ("b.cls", b"3")], {0: 3, 1: 3}),
        ([("a.img.jpg", 0), ("a.cls", b"0"), ("b.img.jpg", 1), ("b.cls", b"01")], {0: 0, 1: 1}),
        ([("a.JPG", 0), ("a.CLS", b"0"), ("b.JPEG", 1), ("b.cls", b" 1\n")], {0: 0, 1: 1}),
        ([("a.jpg", 0), ("a.seg.png", 7), ("a.cls", b"2"), ("./b/a.jpg", 1), ("./b/a.cls", b"0")], {0: 2, 1: 0}),
    ],
)
def test_the_same_samples_as_index(files, labels, tmp_path):
    tar(tmp_path / "x.tar", [(name, jpeg(data) if isinstance(data, int) else data) for name, data in files])
    source = find_source(str(tmp_path))
    found = {source.load(n): item.label for n, item in enumerate(source.items)}
    index_tars(tmp_path)
    indexed = ShardSet.open(tmp_path)
    assert {jpeg(number): label for number, label in labels.items()} == found
    assert {indexed.read(i).data: indexed.read(i).label for i in range(len(indexed))} == found
    assert source.classes == indexed.classes


def test_samples_without_a_label_are_counted_and_shown(tmp_path, capsys):
    tar(tmp_path / "x.tar", [("a.jpg", jpeg(0)), ("a.cls", b"0"), ("b.jpg", jpeg(1))])
    assert main([str(tmp_path / "x.tar"), str(tmp_path / "out")]) == 0
    assert "1 class (warning: 1 of 2 samples have no .cls)" in capsys.readouterr().out
    again = find_source(str(tmp_path / "out"))
    assert sorted(item.label for item in again.items) == [-1, 0]


def test_names_as_labels(tmp_path):
    tar(tmp_path / "x.tar", [("a.jpg", jpeg(0)), ("a.cls", b"dog"), ("b.jpg", jpeg(1)), ("b.cls", b"cat")])
    source = find_source(str(tmp_path))
    assert (source.classes, [item.label for item in source.items]) == (("cat", "dog"), [1, 0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("a.jpg", b"1"), ("a.png", b"2"), ("a.cls", b"0")], r"a has 2 images \(jpg, png\); which"),
        ([("a.jpg", b"1"), ("a.cls", b"0"), ("a.CLS", b"1")], "holds a.CLS twice"),
        ([("a.jpg", b"1"), ("a.cls", b"2000000000")], "must count from 0"),
        ([("a.jpg", b"1"), ("a.jpg", b"2")], "holds a.jpg twice"),
    ],
)
def test_samples_that_cannot_be_used(files, message, tmp_path):
    with pytest.raises(DataError, match=message):
        find_source(str(tar(tmp_path / "x.tar", files)))


def test_hidden_members_are_left_out_and_links_counted(tmp_path):
    files = [
        (".", None),
        ("./._a.jpg", b"x"),
        ("./a.jpg", jpeg(0)),
        ("__MACOSX/b.jpg", b"x"),
        ("c.jpg", "a.jpg"),
        ("n.md", b"x"),
    ]
    source = find_source(str(tar(tmp_path / "x.tar", files)))
    assert [item.name for item in source.items] == ["x.tar/./a.jpg"]
    assert source.skipped == (
        ("x.tar", "1 links or special files"),
        ("x.tar/n.md", "not an image by its name (.md)"),
    )


def test_a_tar_beside_folders_of_images_is_ambiguous(tmp_path):
    make_folder(tmp_path / "in", 4)
    tar(tmp_path / "in" / "old.tar", [("a.jpg", jpeg(9))])
    with pytest.raises(
        DataError, match=r"old\.tar and cat/0000\.jpg\. Move the tars elsewhere.*or give the tars alone"
    ):
        find_source(str(tmp_path / "in"))
    assert len(find_source(str(tmp_path / "in" / "old.tar")).items) == 1


def test_a_tar_that_changed_is_another_plan(tmp_path):
    path = tar(tmp_path / "x.tar", [(f"{n}.jpg", jpeg(n)) for n in range(4)])

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(find_source(str(path)), tmp_path / "out", FAST, stop)
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match="the source has changed"):
        write_shards(find_source(str(path)), tmp_path / "out", FAST)


def test_members_without_an_ending_are_looked_into_as_files_are(tmp_path):
    files = [("cat/1", jpeg(0)), ("dog/2", jpeg(1)), ("dog/README", b"pets"), ("dog/empty", b"")]
    source = find_source(str(tar(tmp_path / "x.tar", files)))
    assert [item.name for item in source.items] == ["x.tar/cat/1", "x.tar/dog/2"]
    assert source.load(1) == jpeg(1)
    assert source.classes == ("cat", "dog")
    assert [name for name, _ in source.skipped] == ["x.tar/dog/README", "x.tar/dog/empty"]
