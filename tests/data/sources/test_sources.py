import json

import numpy as np
import pytest
import torch
from made_images import make_folder
from made_loaders import shard_data
from made_tars import jpeg, tar
from PIL import Image

from data.codecs.decode import decode
from data.shards.local import ShardSet
from data.sources.find import find_source
from data.write.__main__ import main
from data.write.survey import contact_sheet, verify
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import DataError

FAST = WriteOptions(resize=32, workers=1)


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
        ("file\na.jpg", "has file"),
        ("path;label\na.jpg;1", "has path;label"),
        ("path,label\n", "names none"),
        ("path,label\na.jpg,1\nb.jpg,", "label or none"),
        ("path\na.jpg", "None of the 1"),
    ]:
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            find_source(str(path))
    (tmp_path / "list.jsonl").write_text('["a.jpg"]')
    with pytest.raises(DataError, match=r'a line is \["a.jpg"\]; write \{"path"'):
        find_source(str(tmp_path / "list.jsonl"))


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("path, label", "2 classes"),
        ("path\t, label ", "2 classes"),
        ("Path,Label", "2 classes"),
        ("path,class", "no labels (list.CSV has no column label)"),
    ],
)
def test_the_columns_of_a_list(head, said, tmp_path, capsys):
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    path = tmp_path / "list.CSV"
    path.write_text(f'{head}\n0.jpg, "cat, old"\n1.jpg,dog\n')
    assert main([str(path), str(tmp_path / "out")]) == 0
    assert f"found 2 images in 1 folder, 0 skipped, {said}\n" in capsys.readouterr().out
    assert ShardSet.open(tmp_path / "out").classes == (("cat, old", "dog") if "2" in said else ())


def test_rows_without_a_file_count_as_unreadable(tmp_path, capsys):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    path = tmp_path / "list.jsonl"
    rows = [{"path": "0.jpg"}, {"path": "gone.jpg"}, {"path": None}, {"path": ""}, {"path": "a\0b"}, {"path": "."}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert main([str(path), str(tmp_path / "out")]) == 3
    assert "may be unusable, got 5 of 6:" in capsys.readouterr().err
    assert main([str(path), str(tmp_path / "out"), "--max-bad-ratio", "0.9"]) == 0
    named = {line["source"] for line in map(json.loads, (tmp_path / "out" / "bad.jsonl").read_text().splitlines())}
    rows = [f"list.jsonl row {n}: no path" for n in (3, 4)]
    assert named == {"gone.jpg", ".", *rows, "list.jsonl row 5: no path but 'a\\x00b'"}


def test_a_file_listed_with_two_labels_is_a_warning(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "list.csv").write_text("path,label\n0.jpg,cat\n0.jpg,dog\n0.jpg,dog\n")
    assert find_source(str(tmp_path / "list.csv")).notes == ("warning: 1 files are listed with different labels",)


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


def hub_set(path, labels, kind, column="label", **more):
    datasets = pytest.importorskip("datasets")
    features = {"image": datasets.Image(), column: kind(datasets)} | {key: kind(datasets) for key in more}
    rows = {"image": [{"bytes": jpeg(n), "path": None} for n in range(3)], column: labels} | more
    datasets.Dataset.from_dict(rows, features=datasets.Features(features)).save_to_disk(str(path))
    return f"hf-dataset:{path}"


@pytest.mark.parametrize(
    ("labels", "kind", "names"),
    [
        ([0, 1, 0], lambda d: d.ClassLabel(names=["cat", "dog"]), ["cat", "dog", "cat"]),
        ([2, 0, 2], lambda d: d.Value("int64"), ["2", "0", "2"]),
        (["x", "y", "x"], lambda d: d.Value("string"), ["x", "y", "x"]),
        ([-1, -1, -1], lambda d: d.ClassLabel(names=["cat", "dog"]), [None, None, None]),
        ([None, None, None], lambda d: d.Value("int64"), [None, None, None]),
    ],
)
@pytest.mark.slow
def test_a_hugging_face_dataset(labels, kind, names, tmp_path):
    found = write(hub_set(tmp_path / "set", labels, kind), tmp_path / "out")
    assert found == {jpeg(n): name for n, name in enumerate(names)}


def test_label_columns_of_a_hugging_face_dataset(tmp_path):
    def classes(datasets):
        return datasets.ClassLabel(names=["a", "b"])

    assert find_source(hub_set(tmp_path / "one", [0, 1, 0], classes, column="kind")).classes == ("a", "b")
    two = find_source(hub_set(tmp_path / "two", [0, 1, 0], classes, column="fine", coarse=[0, 0, 0]))
    assert (two.classes, two.notes[0].rpartition(";")[2]) == ((), " columns: image, fine, coarse")
    for labels in ([0, None, 1], [0, -1, 1]):
        with pytest.raises(DataError, match=r"column label of .* has 2 for 3"):
            find_source(hub_set(tmp_path / f"set{labels[1]}", labels, classes))


def test_rows_without_an_image(tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": jpeg(0), "path": None}, None]}
    path = tmp_path / "set"
    datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()})).save_to_disk(str(path))
    source = find_source(f"hf-dataset:{path}")
    report = write_shards(source, tmp_path / "out", FAST)
    assert report.skipped == ((source.items[1].name, "no image in this row"),)
    assert main([f"hf-dataset:{path}", str(tmp_path / "new"), "--dry-run"]) == 0
    assert "2 images (an unknown number of bytes" in capsys.readouterr().out
    changed = datasets.load_from_disk(str(path)).select([1, 0])
    changed.save_to_disk(str(tmp_path / "other"))
    other = find_source(f"hf-dataset:{tmp_path / 'other'}")
    assert source.items[0].mtime_ns == find_source(f"hf-dataset:{path}").items[0].mtime_ns
    assert source.items[0].mtime_ns != other.items[0].mtime_ns  # a resume knows it for another set


def test_equal_files_are_left_out(tmp_path):
    source = make_folder(tmp_path / "in", 4)
    (source / "dog" / "copy.jpg").write_bytes((source / "cat" / "0000.jpg").read_bytes())
    report = write_shards(source, tmp_path / "out", WriteOptions(workers=1, dedup="exact"))
    assert report.found == 4
    assert report.skipped == (("dog/copy.jpg", "duplicate of cat/0000.jpg, which has another label"),)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
def test_other_channels_travel_the_whole_road(tmp_path, channels, bits):
    from data.loading.normalise import normalise, random_flip

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
    batch = next(iter(shard_data(shards, global_batch=6, batch_size=6).train_dataloader()))
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
