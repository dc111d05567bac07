import os
import shutil

import pytest
from made_images import make_folder

from data.sources.folder import read_folder
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import DataError

FAST = WriteOptions(resize=32, workers=1)


def test_what_is_not_read_is_named(tmp_path):
    source = make_folder(tmp_path / "in", 4)
    make_folder(tmp_path / "elsewhere", 3, classes=())
    os.symlink("nowhere.jpg", source / "cat" / "gone.jpg")
    os.symlink("self.jpg", source / "cat" / "self.jpg")
    os.symlink("dog", source / "bird")  # would come first by its name
    os.symlink(tmp_path / "elsewhere", source / "emu")
    os.mkfifo(source / "dog" / "pipe.jpg")
    (source / "cat" / "train-000000.index.npy").touch()
    found = read_folder(source)
    assert found.classes == ("cat", "dog", "emu")
    assert [item.name for item in found.items if item.label == 1] == ["dog/0001.jpg", "dog/0003.jpg"]
    assert dict(found.skipped) == {
        "bird": "a link to a folder that is read under another name",
        "cat/gone.jpg": "a link to nothing",
        "cat/self.jpg": os.strerror(40),
        "cat/train-000000.index.npy": "the index of a shard",
        "dog/pipe.jpg": "not a file",
    }


@pytest.mark.parametrize(
    ("stray", "classes", "said"),
    [
        (None, ("cat", "dog"), "0 skipped, 2 classes"),
        ("cover.jpg", ("cat", "dog"), "0 skipped, no labels (cover.jpg lies in no class folder)"),
        (None, ("cat",), "0 skipped, no labels (all images lie in the one folder cat)"),
        (None, (), "0 skipped, no labels (0000.jpg lies in no class folder)"),
    ],
)
def test_the_report_says_what_became_of_the_labels(stray, classes, said, tmp_path):
    source = make_folder(tmp_path / "in", 4, classes=classes)
    if stray:
        shutil.copy(next(source.rglob("*.jpg")), source / stray)
    report = write_shards(source, tmp_path / "out", FAST)
    assert str(report).endswith(said)
    assert len(report.source.classes) == (2 if said.endswith("classes") else 0)


def test_a_destination_inside_the_source_is_refused(tmp_path):
    source = make_folder(tmp_path / "in", 4)
    with pytest.raises(DataError, match="outside of their source"):
        write_shards(source, source / "out", FAST)
    assert not (source / "out").exists()
    write_shards(source, source / ".cache" / "out", FAST)  # not listed
    assert len(read_folder(source).items) == 4
