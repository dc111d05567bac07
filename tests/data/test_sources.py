import io
import json
import tarfile

import numpy as np
import pytest
import torch
from made_images import image_bytes, make_folder, make_pixels
from PIL import Image

from data.commands import main
from data.decode import decode
from data.duplicates import leaks
from data.shards import ShardSet
from data.source import find_source
from data.survey import contact_sheet, verify
from data.write import WriteOptions, write_shards
from swinmim.errors import ConfigError, DataError

FAST = WriteOptions(resize=32, workers=1)


def tar(path, files):
    with tarfile.open(path, "w") as out:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path


def jpeg(number):
    return image_bytes(make_pixels(number, 32, 40))


def write(source, dest, options=FAST):
    write_shards(find_source(str(source)), dest, options)
    shards = ShardSet.open(dest)
    return {
        shards.read(i).data: shards.classes[shards.read(i).label] if shards.classes else None
        for i in range(len(shards))
    }


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("labels", [["cat", "dog", "cat"], [3, 1, 3], None])
def test_a_list(tmp_path, kind, labels):
    rows = []
    for number in range(3):
        (tmp_path / f"{number}.bin").write_bytes(jpeg(number))
        rows.append({"path": f"{number}.bin"} | ({"label": labels[number]} if labels else {}))
    rows.append({"path": "missing.jpg"} | ({"label": labels[0]} if labels else {}))
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        mark = "\t" if kind == "tsv" else ","
        path.write_text("\n".join([mark.join(rows[0])] + [mark.join(map(str, row.values())) for row in rows]))
    expected = {jpeg(n): str(labels[n]) if labels else None for n in range(3)}
    assert write(path, tmp_path / "out") == expected
    assert "missing.jpg" in (tmp_path / "out" / "bad.jsonl").read_text()


def test_lists_that_cannot_be_used(tmp_path):
    path = tmp_path / "list.csv"
    for text, message in [
        ("file\na.jpg", "lacks 'path'"),
        ("path,label\na.jpg,1\nb.jpg,", "label or none"),
        ("path\na.jpg", "None of the 1"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            find_source(str(path))


def test_imagenet_tars(tmp_path):
    folder = tmp_path / "classes"
    folder.mkdir()
    for name, numbers in (("n01", (0, 1)), ("n02", (2,))):
        tar(folder / f"{name}.tar", [(f"{name}_{n}.JPEG", jpeg(n)) for n in numbers])
    expected = {jpeg(0): "n01", jpeg(1): "n01", jpeg(2): "n02"}
    assert write(folder, tmp_path / "a") == expected
    nested = tar(tmp_path / "train.tar", [(f"{n}.tar", (folder / f"{n}.tar").read_bytes()) for n in ("n01", "n02")])
    assert write(nested, tmp_path / "b") == expected


def test_a_folder_in_a_tar(tmp_path):
    files = [("set/train/cat/a.jpg", jpeg(0)), ("set/train/dog/b.jpg", jpeg(1)), ("set/readme.md", b"x")]
    assert write(tar(tmp_path / "set.tar", files), tmp_path / "out") == {jpeg(0): "cat", jpeg(1): "dog"}


def test_shards_are_written_again(shard_dir, shards, tmp_path):
    again = write(shard_dir, tmp_path / "out", WriteOptions(resize=None, workers=1, shard_samples=20))
    assert again == {shards.read(i).data: str(shards.read(i).label) for i in range(40)}
    assert ShardSet.open(tmp_path / "out").shard_sizes == (20, 20)


def test_unusable_tars(tmp_path):
    good = tar(tmp_path / "good.tar", [("a.jpg", jpeg(0))])
    for data, message in [
        (b"", "0 bytes"),
        (good.read_bytes()[:700], "cut inside|no whole"),
        (b"<html>" * 200, "no whole"),
    ]:
        (tmp_path / "bad.tar").write_bytes(data)
        with pytest.raises(DataError, match=message):
            find_source(str(tmp_path / "bad.tar"))
    with pytest.raises(DataError, match="No images"):
        find_source(str(tar(tmp_path / "none.tar", [("a.txt", b"")])))
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match="Unpack it"):
        find_source(str(tmp_path / "x.tar.gz"))


def test_a_hugging_face_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"image": [{"bytes": jpeg(n), "path": None} for n in range(3)], "label": [0, 1, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    found = write(f"hf-dataset:{tmp_path / 'set'}", tmp_path / "out")
    assert found == {jpeg(0): "cat", jpeg(1): "dog", jpeg(2): "cat"}


def test_equal_files_are_left_out(tmp_path):
    source = make_folder(tmp_path / "in", 4)
    (source / "dog" / "copy.jpg").write_bytes((source / "cat" / "0000.jpg").read_bytes())
    report = write_shards(source, tmp_path / "out", WriteOptions(workers=1, dedup="exact"))
    assert report.found == 4
    assert report.skipped == (("dog/copy.jpg", "duplicate of cat/0000.jpg, which has another label"),)


def test_leaks_between_sets(tmp_path):
    one, two = (make_folder(tmp_path / name, 3, classes=()) for name in "ab")
    for number in range(3):
        (two / f"{number:04d}.jpg").write_bytes(jpeg(number + 10))
    (two / "same.jpg").write_bytes((one / "0001.jpg").read_bytes())
    smooth = Image.fromarray(np.random.default_rng(5).integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((300, 200), 3)
    (one / "large.png").write_bytes(image_bytes(smooth, "PNG"))
    (two / "small.jpg").write_bytes(image_bytes(smooth.resize((180, 120)), quality=90))
    sets = []
    for source, name in ((one, "c"), (two, "d")):
        write_shards(source, tmp_path / name, WriteOptions(resize=None, workers=1))
        sets.append(ShardSet.open(tmp_path / name))
    assert len(leaks(*sets)) == 1
    assert len(leaks(*sets, pictures=True)) == 2
    assert main(["leaks", str(tmp_path / "c"), str(tmp_path / "d")]) == 3


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_other_channels_travel_the_whole_road(tmp_path, channels, bits):
    from data.modules import PretrainData
    from data.normalise import normalise, random_flip

    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        np.save(tmp_path / "in" / f"{number}.npy", rng.integers(0, 5000, (24, 30, channels), dtype=np.uint16))
    arguments = ["--channels", str(channels), "--bits", str(bits), "--value-range", "0", "5000", "--workers", "1"]
    assert main([str(tmp_path / "in"), str(tmp_path / "out"), *arguments]) == 0
    shards = ShardSet.open(tmp_path / "out")
    assert shards.channels == len(shards.mean) == len(shards.std) == channels
    assert all(0.45 < mean < 0.55 for mean in shards.mean)
    assert shards.bits == bits
    pixels = decode(shards.read(0).data, channels, bits=bits)
    assert pixels.shape == (24, 30, channels)
    assert pixels.dtype.itemsize * 8 == bits
    assert verify(tmp_path / "out", images=True) == []
    batch = next(
        iter(PretrainData(shards, resolution=(16, 16), seed=0, global_batch=6, batch_size=6).train_dataloader())
    )
    assert batch["image"].shape == (6, 16, 16, channels)
    assert batch["image"].dtype == (torch.uint8 if bits == 8 else torch.uint16)
    images = normalise(random_flip(batch["image"], batch["seed"]), shards.mean, shards.std)
    assert images.shape == (6, channels, 16, 16)
    assert abs(images.mean()) < 0.3
    # 8 bits leave 256 values, the resize of 16 nearly one for each pixel
    assert (len(images.unique()) > 300 * channels) == (bits == 16)
    bands = [channels - 1, 0, 0]
    sheet = contact_sheet(shards, columns=3, rows=2, side=30, bands=bands)
    assert sheet.size == (90, 60)
    with pytest.raises(DataError, match="bands are three channels"):
        contact_sheet(shards, bands=[0, 1, channels])


def test_info_and_verify(shard_dir, tmp_path, capsys):
    assert main(["info", str(shard_dir), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "40 in 6 shards of 5 to 7" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (1024, 768)
    assert main(["verify", str(shard_dir), "--images"]) == 0
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in shard_dir.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data = bytearray((copy / "train-000002.tar").read_bytes())
    data[2000] ^= 1
    (copy / "train-000002.tar").write_bytes(data)
    (copy / "train-000003.index.npy").unlink()
    assert verify(copy) == [
        "train-000002.tar: changed since it was written",
        "train-000003.index.npy: No such file or directory",
    ]
    assert main(["verify", str(copy)]) == 3


def test_an_interrupted_writing_goes_on(folder, tmp_path, shard_dir):
    options = WriteOptions(resize=32, workers=1, shard_samples=7)

    def stop(done, total):
        if done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(folder, tmp_path / "out", options, stop)
    with pytest.raises(DataError, match="quality was 95, is 50"):
        write_shards(folder, tmp_path / "out", WriteOptions(resize=32, workers=1, shard_samples=7, quality=50))
    with pytest.raises(DataError, match="directory with manifest"):
        ShardSet.open(tmp_path / "out")
    done = []
    (tmp_path / "out" / "train-000001.tar").write_bytes(b"torn")
    write_shards(folder, tmp_path / "out", options, lambda n, total: done.append(n), verify=True)
    assert done[0] == 8  # one shard was taken over
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == {
        f.name: f.read_bytes() for f in shard_dir.iterdir()
    }


def test_too_many_bad_images_fail_and_keep_what_is_done(folder, tmp_path, capsys):
    source = make_folder(tmp_path / "in", 9, classes=())
    (source / "bad.jpg").write_bytes(b"x")
    assert main([str(source), str(tmp_path / "out"), "--workers", "1"]) == 3
    assert "At most 1.0% of the images may be unusable" in capsys.readouterr().err
    assert main([str(source), str(tmp_path / "out"), "--workers", "1", "--max-bad-ratio", "0.1"]) == 0
    assert main([str(source), str(tmp_path / "new"), "--limit", "4", "--dry-run"]) == 0
    assert "would write 4 images" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="at least 1"):
        WriteOptions(limit=0)
