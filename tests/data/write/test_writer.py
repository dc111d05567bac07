import gc
import hashlib
import io
import json
import os
import tarfile

import numpy as np
import pytest
import webdataset
from made_images import image_bytes, make_folder, make_pixels
from PIL import Image

from data.codecs.decode import decode
from data.shards.local import ShardSet
from data.write import workers as encoders
from data.write.__main__ import main
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import DataError


def digest(directory):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(directory.iterdir())}


def test_written_set_reads_back(shard_dir, shards, folder):
    assert len(shards) == 40
    assert shards.classes == ("cat", "dog")
    assert shards.shard_sizes == (7, 7, 7, 7, 7, 5)
    assert all(0.05 < value < 0.6 for value in (*shards.mean, *shards.std))
    records = [shards.read(index) for index in range(40)]
    assert [record.key for record in records] == [f"{n:09d}" for n in range(40)]
    assert sorted(record.label for record in records) == [0] * 20 + [1] * 20
    assert all(decode(record.data).shape == (32, 43, 3) for record in records)
    np.testing.assert_array_equal(shards.labels, [record.label for record in records])
    assert not [file for file in shard_dir.iterdir() if "partial" in file.name]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # webdataset leaves its files open
def test_stock_webdataset_reads_what_we_write(shard_dir, shards):
    urls = [str(shard_dir / shard.name) for shard in shards.shards]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    gc.collect()
    assert len(samples) == 40
    for index, sample in enumerate(samples):
        record = shards.read(index)
        assert (sample["__key__"], sample["jpg"], int(sample["cls"])) == (record.key, record.data, record.label)


def test_tars_hold_no_time_or_owner(shard_dir):
    with tarfile.open(shard_dir / "train-000000.tar") as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def mixed_folder(root):
    """Images of many kinds, a damaged and an empty file, and a link to nothing."""
    make_folder(root, 24)
    for number, kind in enumerate(("PNG", "GIF", "BMP", "WEBP", "TIFF")):
        (root / "cat" / f"{kind}.img.{kind.lower()}").write_bytes(image_bytes(make_pixels(number, 40, 50), kind))
    cmyk = Image.fromarray(make_pixels(9, 40, 50)).convert("CMYK")
    (root / "dog" / "cmyk.jpg").write_bytes(image_bytes(cmyk))
    (root / "dog" / "large.png").write_bytes(image_bytes(make_pixels(8, 90, 70), "PNG"))
    (root / "dog" / "grey.png").write_bytes(image_bytes(Image.fromarray(make_pixels(7, 20, 30)).convert("L"), "PNG"))
    (root / "dog" / "damaged.jpg").write_bytes((root / "cat" / "0000.jpg").read_bytes()[:900])
    (root / "dog" / "empty.jpg").touch()
    os.symlink("nowhere", root / "dog" / "link.jpg")
    return root


@pytest.mark.slow
def test_the_same_bytes_for_any_number_of_encoders(tmp_path, monkeypatch):
    monkeypatch.setattr(encoders, "_CHUNK_IMAGES", 5)
    source = mixed_folder(tmp_path / "in")
    sets = {}
    for workers in (1, 2, 3):
        write_shards(source, tmp_path / str(workers), WriteOptions(resize=32, workers=workers, shard_samples=9))
        sets[workers] = digest(tmp_path / str(workers))
    assert sets[1] == sets[2] == sets[3]
    assert len((tmp_path / "1" / "bad.jsonl").read_text().splitlines()) == 3
    assert len(ShardSet.open(tmp_path / "1")) == 32


def test_statistics_are_those_of_what_is_stored(tmp_path):
    write_shards(mixed_folder(tmp_path / "in"), tmp_path / "out", WriteOptions(resize=None, workers=1))
    write_shards(tmp_path / "in", tmp_path / "small", WriteOptions(resize=32, workers=1))
    bands = tmp_path / "bands"
    bands.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        np.save(bands / f"{number}.npy", rng.integers(0, 40 * (number + 1), (20 + number, 30, 5), dtype=np.uint8))
    write_shards(bands, tmp_path / "bands_out", WriteOptions(channels=5, workers=1))
    # What is encoded anew is measured before the loss.
    for name, tolerance in (("out", 2e-3), ("small", 2e-3), ("bands_out", 1e-6)):
        shards = ShardSet.open(tmp_path / name)
        pixels = np.concatenate(
            [decode(shards.read(n).data, shards.channels).reshape(-1, shards.channels) for n in range(len(shards))]
        )
        np.testing.assert_allclose(shards.mean, pixels.mean(0) / 255, atol=tolerance)
        np.testing.assert_allclose(shards.std, pixels.std(0) / 255, atol=tolerance)


def test_statistics_of_copied_files_are_exact(folder, tmp_path):
    write_shards(folder, tmp_path / "out", WriteOptions(resize=None, workers=1))
    pixels = np.concatenate([decode(file.read_bytes()).reshape(-1, 3) for file in folder.rglob("*.jpg")])
    shards = ShardSet.open(tmp_path / "out")
    np.testing.assert_allclose(shards.mean, pixels.mean(0) / 255, atol=1e-6)
    np.testing.assert_allclose(shards.std, pixels.std(0) / 255, atol=1e-6)


def test_shards_stay_below_their_limits(folder, tmp_path):
    sizes = sorted(file.stat().st_size for file in folder.rglob("*.jpg"))
    limit = 5 * sizes[-1]
    write_shards(folder, tmp_path / "out", WriteOptions(resize=None, workers=1, shard_bytes=limit))
    shards = ShardSet.open(tmp_path / "out")
    ends = np.cumsum(shards.shard_sizes)
    held = [part.sum() for part in np.split(shards.file_sizes, ends[:-1])]
    assert max(held) <= limit
    assert all(size + sizes[-1] > limit for size in held[:-1])
    assert max(shards.shard_sizes) >= 5


def test_the_seed_decides_the_order_and_nothing_else(folder, tmp_path):
    images = []
    for seed in (0, 1):
        write_shards(folder, tmp_path / str(seed), WriteOptions(resize=None, workers=1, seed=seed))
        shards = ShardSet.open(tmp_path / str(seed))
        images.append([(shards.read(index).data, shards.read(index).label) for index in range(len(shards))])
    assert images[0] != images[1]
    assert sorted(images[0]) == sorted(images[1])


def test_small_rgb_files_are_copied_and_large_ones_shrunk(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    small = image_bytes(make_pixels(0, 32, 32), quality=80)
    png = image_bytes(make_pixels(1, 32, 32), "PNG")
    (source / "a.jpg").write_bytes(small)
    (source / "b.png").write_bytes(png)
    (source / "c.png").write_bytes(image_bytes(make_pixels(2, 100, 300), "PNG"))
    write_shards(source, tmp_path / "out", WriteOptions(resize=64, workers=1))
    shards = ShardSet.open(tmp_path / "out")
    records = [shards.read(index) for index in range(3)]
    assert {small, png} < {record.data for record in records}
    assert [decode(r.data).shape for r in records if r.data not in (small, png)] == [(64, 192, 3)]
    assert shards.classes == ()
    assert shards.read(0).label == -1


def test_resize_none_keeps_originals(folder, tmp_path):
    write_shards(folder, tmp_path / "out", WriteOptions(resize=None, workers=1))
    shards = ShardSet.open(tmp_path / "out")
    originals = {file.read_bytes() for file in folder.rglob("*.jpg")}
    assert {shards.read(index).data for index in range(len(shards))} == originals


def test_bad_files_are_skipped_counted_and_named(tmp_path):
    source = make_folder(tmp_path / "in", 6, classes=())
    (source / "empty.jpg").touch()
    (source / "page.jpg").write_text("<html>")
    whole = (source / "0000.jpg").read_bytes()
    (source / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "tiny.png").write_bytes(image_bytes(make_pixels(1, 1, 50), "PNG"))
    (source / "notes.txt").write_text("x")
    (source / ".hidden.jpg").write_text("x")
    report = write_shards(source, tmp_path / "out", WriteOptions(workers=1))
    assert str(report) == "found 6 images in 1 folder, 5 skipped, no labels (0000.jpg lies in no class folder)"
    lines = [json.loads(line) for line in (tmp_path / "out" / "bad.jsonl").read_text().splitlines()]
    assert {line["source"] for line in lines} == {"empty.jpg", "page.jpg", "cut.jpg", "tiny.png", "notes.txt"}
    assert all(line["reason"] for line in lines)


def test_nested_folders_and_links(tmp_path):
    source = make_folder(tmp_path / "in" / "a" / "deep" / "er", 3, classes=())
    make_folder(tmp_path / "in" / "b", 3, classes=())
    os.symlink(tmp_path / "in", source / "loop")
    report = write_shards(tmp_path / "in", tmp_path / "out", WriteOptions(workers=1))
    assert (report.found, report.source.folders) == (6, 2)
    assert ShardSet.open(tmp_path / "out").classes == ("a", "b")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: None, "must exist"),
        (lambda p: p.write_text("x"), "got the file"),
        (lambda p: p.mkdir(), "No images found .* no files"),
        (lambda p: (p.mkdir(), (p / "a.txt").touch()), r"No images found .* 1 other files \(extensions: txt\)"),
        (lambda p: (p.mkdir(), (p / "a.jpg").touch()), "No usable image among 1 files"),
    ],
)
def test_unusable_sources(make, message, tmp_path):
    make(tmp_path / "in")
    with pytest.raises(DataError, match=message):
        write_shards(tmp_path / "in", tmp_path / "out", WriteOptions(workers=1))


def test_a_used_destination_is_refused(folder, shard_dir):
    with pytest.raises(DataError, match="already a shard set"):
        write_shards(folder, shard_dir)


def test_all_damaged_shards_are_listed(shard_dir, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in shard_dir.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "train-000001.tar").unlink()
    with (copy / "train-000003.tar").open("ab") as file:
        file.write(b"more")
    (copy / "train-000004.index.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"(?s)3 problem.*000001.tar: missing.*000003.tar: \d+ bytes.*000004.index.npy"):
        ShardSet.open(copy)
    with pytest.raises(DataError, match=r"directory with manifest\.json"):
        ShardSet.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"version": 1, "shards": [{"name": "../x.tar", "samples": 1}]}')
    with pytest.raises(DataError, match=r"no usable manifest.*(?s:.*)name must be a \.tar beside the manifest"):
        ShardSet.open(tmp_path)


def test_a_shard_that_changes_while_open_is_noticed(shard_dir, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in shard_dir.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    shards = ShardSet.open(copy)
    (copy / "train-000000.tar").write_bytes(bytes(shards.shards[0].bytes))
    with pytest.raises(DataError, match="not where the index says"):
        shards.read(0)


def test_command_line(folder, tmp_path, capsys):
    assert main([str(folder), str(tmp_path / "out"), "--resize", "none", "--workers", "1"]) == 0
    assert "found 40 images in 2 folders, 0 skipped" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing"), str(tmp_path / "x")]) == 3
    assert capsys.readouterr().err.startswith("error: A source of images must exist")


def test_exif_is_applied_at_writing(tmp_path):
    (tmp_path / "in").mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in" / "a.jpg").write_bytes(image_bytes(make_pixels(0, 32, 64), exif=exif))
    write_shards(tmp_path / "in", tmp_path / "out", WriteOptions(resize=None, workers=1))
    stored = Image.open(io.BytesIO(ShardSet.open(tmp_path / "out").read(0).data))
    assert stored.size == (32, 64)
    assert 0x0112 not in stored.getexif()
