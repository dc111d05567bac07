import errno
import os
import shutil

import pytest
from made_images import image_bytes, make_folder, make_pixels

from data.codecs.formats import HEAD, is_image_head
from data.sources.folder import read_folder
from data.sources.source import NO_EXTENSION
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


def test_files_without_extension_are_looked_into(tmp_path):
    source = make_folder(tmp_path / "in", 4)
    for file in list(source.rglob("*.jpg")):
        file.rename(file.with_suffix(""))
    (source / "cat" / "notes").write_text("BM is how a bitmap begins")
    os.mkfifo(source / "cat" / "pipe")
    found = read_folder(source)
    assert [item.name for item in found.items] == ["cat/0000", "cat/0002", "dog/0001", "dog/0003"]
    assert found.classes == ("cat", "dog")
    assert dict(found.skipped) == {"cat/notes": NO_EXTENSION, "cat/pipe": "not a file"}
    assert write_shards(source, tmp_path / "out", FAST).found == 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000"])
def test_first_bytes_of_every_format(kind):
    assert is_image_head(image_bytes(make_pixels(0), kind)[:HEAD])


@pytest.mark.parametrize(
    "head", [b"", b"BM is no bitmap!", b"P5 is", b"RIFF....WAVEfmt ", b"%PDF-1.7", b"II", b"\xff\xd8"]
)
def test_first_bytes_of_other_files(head):
    assert is_image_head(head) == (head == b"P5 is")  # as good as a PGM can be told; the decoder refuses it


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    source = make_folder(tmp_path / "in", 4)
    scandir = os.scandir

    def closed(folder):
        if str(folder).endswith("dog"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return scandir(folder)

    monkeypatch.setattr("os.scandir", closed)
    with pytest.raises(DataError, match=r"in/dog cannot be read \(Permission denied\)\. Make it readable, or move it"):
        read_folder(source)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_class_folder_without_permission_is_an_error(tmp_path):
    source = make_folder(tmp_path / "in", 4)
    (source / "dog").chmod(0)
    try:
        with pytest.raises(DataError, match="in/dog cannot be read"):
            read_folder(source)
    finally:
        (source / "dog").chmod(0o755)


def test_what_systems_put_into_folders_is_not_listed(tmp_path):
    source = make_folder(tmp_path / "in", 4)
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store"):
        (source / "cat" / name).touch()
    assert read_folder(source).skipped == ()
