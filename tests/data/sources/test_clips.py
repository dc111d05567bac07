"""Folders and lists of clips: found, passed through, and never mixed up with images."""

import struct

import numpy as np
import pytest
from made_clips import encode_clip, grey_frames, provide_ffmpeg
from PIL import Image

from data.codecs.encode import check_clip
from data.codecs.formats import lacks_index
from data.codecs.parsers import DecodeError
from data.config import DataConfig, LabelledDataConfig
from data.open import labelled_parts, open_data
from data.shards.local import ShardSet
from data.sources.find import find_source
from data.sources.folder import read_folder
from data.sources.listing import read_list
from data.write.pack import pack
from data.write.survey import contact_sheet, describe, verify
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import ConfigError, DataError

ONE = WriteOptions(resize=None, workers=1)


@pytest.fixture(scope="module")
def files():
    """A clip of each container, as bytes."""
    provide_ffmpeg()
    return {container: encode_clip(grey_frames(6), container) for container in ("mp4", "avi", "webm")}


@pytest.fixture
def folder(tmp_path, files):
    for name in ("run/a.mp4", "run/b.avi", "walk/c.webm", "walk/d.MP4", "walk/e.avi"):
        file = tmp_path / "clips" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(files[name.lower().rpartition(".")[2]])
    return tmp_path / "clips"


def config(path, cache, kind=DataConfig, **more):
    how = {"val_ratio": 0.4, "pack_resize": None, "pack_quality": 90, "stats": "auto", "num_workers": 0}
    return kind(path=str(path), cache_dir=str(cache), max_bad_fraction=0.5, **how, **more)


def parts(path, cache, needs="clip"):
    settings = config(path, cache, LabelledDataConfig, val_path=None, labels_per_class=None)
    return labelled_parts(settings, seed=0, channels=3, needs=needs)


def test_a_folder_of_clips_a_class_becomes_a_set_of_the_same_bytes(folder, files, tmp_path):
    shards = ShardSet.open(pack(folder, tmp_path / "cache", ONE, needs="clip"))
    assert (shards.classes, shards.clips, len(shards)) == (("run", "walk"), True, 5)
    held = sorted((record.suffix, record.label) for record in map(shards.read, range(5)))
    assert held == [("avi", 0), ("avi", 1), ("mp4", 0), ("mp4", 1), ("webm", 1)]
    assert all(record.data == files[record.suffix] for record in map(shards.read, range(5)))
    assert shards.mean == (0.485, 0.456, 0.406)  # ImageNet's: no frame was decoded
    assert "clips     5 in 1 shards" in describe(shards)
    assert verify(shards.path, images=True) == []
    with pytest.raises(DataError, match="A sheet shows images"):
        contact_sheet(shards)


def test_a_list_of_clips_has_labels(folder, tmp_path):
    path = folder / "list.csv"
    path.write_text("path,label\nrun/a.mp4,fast\nwalk/c.webm,slow\n")
    shards = ShardSet.open(pack(path, tmp_path / "cache", ONE, needs="clip"))
    assert (shards.classes, shards.clips) == (("fast", "slow"), True)
    assert find_source(str(path)).clips
    assert not read_list(path).clips


def test_clips_are_found_where_there_are_no_images(folder):
    assert find_source(str(folder)).clips
    assert len(find_source(str(folder)).items) == 5
    with pytest.raises(DataError, match=r"No images found in .* \(extensions: avi, mp4, webm\).* for task=video"):
        read_folder(folder)
    Image.new("RGB", (16, 16)).save(folder / "run" / "still.png")
    assert [item.name for item in find_source(str(folder)).items] == ["run/still.png"]
    listed = read_folder(folder, clips=True)
    assert len(listed.items) == 5
    assert listed.skipped == (("run/still.png", "not a clip by its name (.png)"),)


def test_no_clip_at_all(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "still.png")
    with pytest.raises(DataError, match=r"No clips found in .*\(extensions: png\)\. Accepted extensions: mp4, avi, "):
        read_folder(tmp_path, clips=True)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "empty file"),
        (lambda data: b"\xff\xd8\xff" + data, r"no clip by its first bytes \(mp4, avi, webm\)"),
        (lambda data: data[:-100], "cut short: the table of its frames is missing"),
        (lambda data: data[:40], "cut short"),
    ],
)
def test_what_is_no_clip_is_left_out_with_the_reason(files, damage, reason):
    with pytest.raises(DecodeError, match=reason):
        check_clip(damage(files["mp4"]))


def box(kind, size, content=b""):
    return struct.pack(">I", size) + kind + content


def test_the_table_of_an_mp4_is_found_wherever_it_stands():
    head, table = box(b"ftyp", 16, bytes(8)), box(b"moov", 12, bytes(4))
    assert not lacks_index(head + table)
    assert not lacks_index(head + box(b"mdat", 1, struct.pack(">Q", 20) + bytes(4)) + table)
    assert not lacks_index(head + box(b"moov", 0, bytes(4)))
    assert lacks_index(head + table[:-1])
    assert lacks_index(head + box(b"mdat", 0, bytes(30)))
    assert lacks_index(head + box(b"free", 7) + table)  # no box is as small
    assert lacks_index(b"")


def test_damaged_clips_are_counted(folder, tmp_path, files):
    (folder / "run" / "a.mp4").write_bytes(files["mp4"][:-50])
    report = write_shards(read_folder(folder, clips=True), tmp_path / "set", ONE)
    assert report.found == 4
    assert report.skipped == (("run/a.mp4", "cut short: the table of its frames is missing"),)
    for file in folder.rglob("*.*"):
        file.write_bytes(b"no clip")
    with pytest.raises(DataError, match="No usable clip among 5 files"):
        write_shards(read_folder(folder, clips=True), tmp_path / "other", ONE)


def test_clips_have_three_channels(folder, tmp_path):
    with pytest.raises(ConfigError, match="Clips have 3 channels of 8 bits, got 1 of 8"):
        write_shards(read_folder(folder, clips=True), tmp_path / "set", WriteOptions(channels=1, workers=1))


def test_sets_of_images_and_of_clips_are_told_apart(folder, tmp_path):
    train, val = parts(folder, tmp_path / "cache")
    assert len(train.sorted_indices()) + len(val.sorted_indices()) == 5
    clips = train.shards.path
    with pytest.raises(DataError, match="holds clips, which only task=video reads"):
        parts(clips, tmp_path / "cache", "label")
    with pytest.raises(DataError, match="holds clips, which only task=video reads"):
        open_data(config(clips, tmp_path / "cache"))
    images = tmp_path / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(images / name / "1.png")
    stills = pack(images, tmp_path / "cache", ONE)
    with pytest.raises(DataError, match=r"task=video needs clips; .* holds images\. Give a set or a folder of mp4, "):
        parts(stills, tmp_path / "cache")


def test_clips_without_classes_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"none for some or all clips\. Put each clip into .*DIR/cat/1\.mp4"):
        parts(folder / "run", tmp_path / "cache")
