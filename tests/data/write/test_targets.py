import json
import shutil
from dataclasses import dataclass

import numpy as np
import pytest
from made_images import image_bytes, make_pixels
from made_tars import jpeg, tar

from data.codecs.bands import npy_bytes
from data.codecs.decode import decode
from data.codecs.targets import Boxes, decode_target, encode_target
from data.shards.local import ShardSet
from data.sources.find import find_source
from data.sources.source import Item, Source
from data.write.__main__ import main
from data.write.duplicates import duplicates
from data.write.index import index_tars
from data.write.plan import plan_hash
from data.write.survey import verify
from data.write.writer import WriteOptions, write_shards
from swinmim.errors import DataError

WHOLE = WriteOptions(resize=None, workers=1, shard_samples=3)
CLASSES = ("sky", "sea", "sand")


@dataclass(frozen=True, kw_only=True)
class MadeSource(Source):
    images: tuple[bytes, ...]
    targets: tuple[bytes, ...]

    def load(self, position):
        return self.images[position]

    def load_target(self, position):
        return self.targets[position]


def made(kind, targets, images=None):
    """Images of 60x40 pixels (width, height)."""
    images = images or [image_bytes(make_pixels(n, 40, 60), "PNG") for n in range(len(targets))]
    items = [Item(f"{n}.png", -1, len(data), 0, f"{n}.target") for n, data in enumerate(images)]
    return MadeSource(items, CLASSES, target=kind, images=tuple(images), targets=tuple(targets))


def masks(count, height=40, width=60):
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 3, (height // 10, width // 10)), np.ones((10, 10))).astype(np.uint8)] * count


def some_targets(kind):
    match kind:
        case "labels":
            held = [np.array(row) for row in ([True, False, True], [False, False, False], [True, True, True])]
        case "value":
            held = [np.array([n, 0.1, -2.5e7], np.float32) for n in range(3)]
        case "mask":
            held = masks(3)
        case "boxes":
            shapes = np.zeros((2, 40, 60), bool)
            shapes[0, 8:20, 12:30] = True
            box = np.array([[12, 8, 18, 12], [0, 0, 60, 40]], np.float32)
            held = [
                Boxes(box, np.array([2, 0]), np.array([False, True]), shapes),
                Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)),
                Boxes(box[:1], np.array([1]), np.array([False])),
            ]
    return [encode_target(kind, target, 3) for target in held]


@pytest.mark.parametrize("kind", ["labels", "value", "mask", "boxes"])
def test_every_kind_lies_beside_its_image_and_is_written_again(kind, tmp_path, capsys):
    targets = some_targets(kind)
    source = made(kind, targets)
    report = write_shards(source, tmp_path / "a", WHOLE)
    assert (len(report.source.classes), report.skipped) == (3, ())
    shards = ShardSet.open(tmp_path / "a")
    assert (shards.target, shards.classes, set(shards.labels)) == (kind, CLASSES, {-1})
    expected = dict(zip(source.images, targets, strict=True))
    assert {record.data: record.target for record in map(shards.read, range(3))} == expected
    assert verify(tmp_path / "a", images=True) == []
    again = find_source(str(tmp_path / "a"))
    assert (again.target, again.classes) == (kind, CLASSES)
    write_shards(again, tmp_path / "b", WHOLE)
    shards = ShardSet.open(tmp_path / "b")
    assert {record.data: record.target for record in map(shards.read, range(3))} == expected
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["version"] == 2
    for name in ("manifest.json", *(file.name for file in (tmp_path / "a").glob("*.npy"))):
        (tmp_path / "a" / name).unlink()
    assert main(["index", str(tmp_path / "a")]) == 0
    assert f"indexed 3 samples with {kind}\n" in capsys.readouterr().out
    shards = ShardSet.open(tmp_path / "a")
    assert (shards.target, shards.classes) == (kind, ("0", "1", "2"))
    assert {record.data: record.target for record in map(shards.read, range(3))} == expected
    assert main(["info", str(tmp_path / "a")]) == 0
    assert f"target    {kind} of 3" in capsys.readouterr().out


def test_masks_shrink_with_their_images(tmp_path):
    mask = masks(1)[0]
    source = made("mask", [encode_target("mask", mask, 3)])
    write_shards(source, tmp_path / "out", WriteOptions(resize=20, workers=1))
    record = ShardSet.open(tmp_path / "out").read(0)
    assert decode(record.data).shape == (20, 30, 3)
    np.testing.assert_array_equal(decode_target("mask", record.target, 3), mask[::2, ::2])
    assert verify(tmp_path / "out", images=True) == []


@pytest.mark.parametrize("bands", [False, True])
def test_boxes_shrink_with_their_images(bands, tmp_path):
    pixels = make_pixels(0, 40, 60)
    image = npy_bytes(np.dstack([pixels, pixels])) if bands else image_bytes(pixels, "PNG")
    source = made("boxes", some_targets("boxes")[:1], [image])
    write_shards(source, tmp_path / "out", WriteOptions(resize=20, workers=1, channels=6 if bands else 3))
    found = decode_target("boxes", ShardSet.open(tmp_path / "out").read(0).target, 3)
    np.testing.assert_allclose(found.boxes, [[6, 4, 9, 6], [0, 0, 30, 20]])
    inside = np.zeros((20, 30), bool)
    inside[4:10, 6:15] = True
    np.testing.assert_array_equal(found.masks, [inside, np.zeros((20, 30), bool)])
    assert (found.labels.tolist(), found.crowd.tolist()) == ([2, 0], [False, True])


def test_a_target_counts_in_the_upright_image(tmp_path):
    turned = image_bytes(
        make_pixels(0, 60, 40), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    )
    source = made("mask", [encode_target("mask", masks(1)[0], 3)], [turned])
    write_shards(source, tmp_path / "out", WHOLE)
    record = ShardSet.open(tmp_path / "out").read(0)
    assert decode(record.data).shape == (40, 60, 3)
    assert record.target == source.targets[0]


@pytest.mark.parametrize(
    ("kind", "target", "reason"),
    [
        ("labels", b"[3]", "whole numbers from 0 to 2"),
        ("labels", b"cat", "no JSON"),
        ("value", b"[1, 2]", "a list of 3 numbers"),
        ("mask", encode_target("mask", masks(1, 30, 60)[0], 3), "its mask has 60x30 pixels, the image 60x40"),
        ("boxes", b'{"boxes": [[0, 0, 1, 1]], "labels": []}', "1 boxes have 0 labels"),
    ],
)
def test_a_target_that_cannot_be_leaves_its_image_out(kind, target, reason, tmp_path):
    source = made(kind, [some_targets(kind)[0], target])
    report = write_shards(source, tmp_path / "out", WHOLE)
    assert len(ShardSet.open(tmp_path / "out")) == 1
    assert report.skipped[0][0] == "1.png"
    assert reason in report.skipped[0][1]


def test_verify_names_targets_that_do_not_fit(tmp_path):
    tar(tmp_path / "x.tar", [("a.jpg", jpeg(0)), ("a.mask.png", encode_target("mask", masks(1)[0], 3))])
    index_tars(tmp_path)
    assert verify(tmp_path) == []
    assert verify(tmp_path, images=True) == ["x.tar: a: its mask has 60x40 pixels, the image 40x32"]


def test_other_targets_are_another_plan():
    one, two = made("labels", [b"[0]"]), made("labels", [b"[0]"])
    assert plan_hash(one, WHOLE) == plan_hash(two, WHOLE)
    changed = made("labels", [b"[0]"])
    changed.items[0] = Item("0.png", -1, changed.items[0].size, 0, "[1]")
    assert plan_hash(changed, WHOLE) != plan_hash(one, WHOLE)
    assert plan_hash(made("value", [b"[0]"]), WHOLE) != plan_hash(one, WHOLE)


def test_equal_images_of_other_targets_are_named():
    source = made("labels", [b"[0]", b"[1]", b"[0]"], [jpeg(0)] * 3)
    assert duplicates(source) == {1: "duplicate of 0.png, which has another label", 2: "duplicate of 0.png"}


def write_list(tmp_path, kind, cells):
    rows = []
    for number, cell in enumerate(cells):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
        rows.append({"path": f"{number}.jpg", "labels": cell})
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        mark = "\t" if kind == "tsv" else ","
        path.write_text("\n".join([mark.join(rows[0])] + [mark.join(row.values()) for row in rows]))
    return path


def label_names(path):
    shards = ShardSet.open(path)
    assert shards.target == "labels"
    records = [shards.read(index) for index in range(len(shards))]
    return {
        record.data: {
            shards.classes[n] for n in np.flatnonzero(decode_target("labels", record.target, len(shards.classes)))
        }
        for record in records
    }


@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        ("csv", ["sea|sky", "", " sea | sand|sea |"]),
        ("tsv", ["sky|sea", "  ", "sand|sea"]),
        ("jsonl", [["sea", "sky"], [], ["sea", " sand ", None, "sea"]]),
        ("jsonl", ["sea|sky", None, ["sand", "sea"]]),
        ("parquet", [["sea", "sky"], None, ["sea", "sand"]]),
        ("parquet", ["sea|sky", None, "sand|sea"]),
    ],
)
def test_a_list_of_several_labels(kind, cells, tmp_path, capsys):
    path = write_list(tmp_path, kind, cells)
    assert main([str(path), str(tmp_path / "new"), "--dry-run"]) == 0
    assert "3 labels (1.33 labels an image)) as 1 shard" in capsys.readouterr().out
    assert main([str(path), str(tmp_path / "out")]) == 0
    assert "found 3 images in 1 folder, 0 skipped, 3 labels (1.33 labels an image)\n" in capsys.readouterr().out
    assert label_names(tmp_path / "out") == {jpeg(0): {"sea", "sky"}, jpeg(1): set(), jpeg(2): {"sea", "sand"}}
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "target    labels of 3, 1.33 an image" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cells", "classes"),
    [
        (["2|0", "00"], ("0", "1", "2")),
        (["2|cat", "0"], ("0", "2", "cat")),
        (["1.0", "0"], ("0", "1")),
        (["1020", "0"], tuple(map(str, range(1021)))),
    ],
)
def test_numbers_and_names_as_in_a_column_of_one_label(cells, classes, tmp_path):
    assert find_source(str(write_list(tmp_path, "csv", cells))).classes == classes


@pytest.mark.parametrize(
    ("kind", "cells", "message"),
    [
        ("csv", ["", " | "], r"column labels of .*list\.csv is empty everywhere"),
        ("jsonl", [[], None], "is empty everywhere"),
        ("csv", ["-1", "0"], "must count from 0, column labels of .*list.csv has -1"),
        ("csv", ["1021", "0"], "has 1021: give names or renumber"),
        ("jsonl", [[0], {"a": 1}], r"text or a number, got \{'a': 1\}"),
        ("jsonl", [[0], [[1]]], r"text or a number, got \[1\]"),
    ],
)
def test_columns_of_labels_that_cannot_be_used(kind, cells, message, tmp_path):
    path = write_list(tmp_path, kind, cells)
    with pytest.raises(DataError, match=message):
        find_source(str(path))


def test_label_and_labels_are_one_too_many(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "list.csv").write_text("path,label,labels\n0.jpg,cat,dog|emu\n")
    with pytest.raises(DataError, match=r"list\.csv has both\. Drop or rename one"):
        find_source(str(tmp_path / "list.csv"))


def test_a_file_listed_with_other_labels_is_a_warning(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "list.csv").write_text("path,labels\n0.jpg,cat|dog\n0.jpg,dog|cat\n0.jpg,dog\n")
    assert find_source(str(tmp_path / "list.csv")).notes[1] == "warning: 1 files are listed with different labels"


def test_changed_labels_are_another_plan(tmp_path):
    path = write_list(tmp_path, "csv", ["sea|sky", "", "sand"])

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(find_source(str(path)), tmp_path / "out", WHOLE, stop)
    path.write_text(path.read_text().replace("sea|sky", "sky").replace("2.jpg,sand", "2.jpg,sand|sea"))
    with pytest.raises(DataError, match="the source has changed"):
        write_shards(find_source(str(path)), tmp_path / "out", WHOLE)


@pytest.mark.parametrize(
    ("column", "values", "kind", "classes"),
    [
        ("labels", [[0, 2], [], [1, 2]], lambda d: d.ClassLabel(names=["sand", "sea", "sky"]), ("sand", "sea", "sky")),
        ("tags", [[0, 2], [], [1, 2]], lambda d: d.ClassLabel(names=["sand", "sea", "sky"]), ("sand", "sea", "sky")),
        ("labels", [["sand", "sky"], None, ["sky", "sea"]], lambda d: d.Value("string"), ("sand", "sea", "sky")),
        ("label", [[0, 2], [], [1, 2]], lambda d: d.Value("int64"), ("0", "1", "2")),
    ],
)
def test_a_hugging_face_dataset_of_sequences(column, values, kind, classes, tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), column: datasets.Sequence(kind(datasets))})
    rows = {"image": [{"bytes": jpeg(n), "path": None} for n in range(3)], column: values}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    source = find_source(f"hf-dataset:{tmp_path / 'set'}")
    assert (source.target, source.classes, source.notes) == ("labels", classes, ("1.33 labels an image",))
    write_shards(source, tmp_path / "out", WHOLE)
    first, second, third = classes
    assert label_names(tmp_path / "out") == {jpeg(0): {first, third}, jpeg(1): set(), jpeg(2): {second, third}}


def test_one_label_goes_before_several_in_a_hugging_face_dataset(tmp_path):
    datasets = pytest.importorskip("datasets")
    kind = datasets.ClassLabel(names=["a", "b"])
    features = datasets.Features({"image": datasets.Image(), "kind": kind, "tags": datasets.Sequence(kind)})
    rows = {"image": [{"bytes": jpeg(0), "path": None}], "kind": [1], "tags": [[0]]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    source = find_source(f"hf-dataset:{tmp_path / 'set'}")
    assert (source.target, source.classes, source.items[0].label) == (None, ("a", "b"), 1)


@pytest.mark.parametrize(
    ("files", "kind", "said"),
    [
        ([("a.jpg", jpeg(0)), ("a.labels.json", b"[1]"), ("b.jpg", jpeg(1)), ("b.LABELS.JSON", b"[]")], "labels", []),
        (
            [("a.jpg", jpeg(0)), ("a.labels.json", b"[1]"), ("b.jpg", jpeg(1))],
            None,
            ["only some samples have labels.json"],
        ),
        (
            [("a.jpg", jpeg(0)), ("a.cls", b"0"), ("b.cls", b"0"), ("b.jpg", jpeg(1)), ("b.mask.png", b"x")],
            None,
            ["only some samples have mask.png"],
        ),
        ([("a.jpg", jpeg(0)), ("a.json", b"{}"), ("a.cls", b"1"), ("a.labels.json", b"[0]")], "labels", []),
        ([("a.mask.png", jpeg(0))], None, []),
    ],
)
def test_tars_of_others_with_targets(files, kind, said, tmp_path):
    tar(tmp_path / "x.tar", files)
    source = find_source(str(tmp_path))
    assert source.target == kind
    assert all(any(text in note for note in source.notes) for text in said)
    report = index_tars(tmp_path)
    shards = ShardSet.open(tmp_path)
    assert report.target == shards.target == kind
    assert [text in line for text, line in zip(said, report.warnings, strict=True)] == [True] * len(said)
    assert len(source.items) == len(shards) == report.samples
    if kind:
        assert source.classes == shards.classes
        assert {source.load(n): source.load_target(n) for n in range(len(shards))} == {
            record.data: record.target for record in map(shards.read, range(len(shards)))
        }


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"a.labels.json": b"[1, 1]"}, r"x\.tar: a\.labels\.json holds no labels \(labels must rise"),
        ({"a.labels.json": b"[" * 100_000}, r"holds no labels \(no JSON"),
        ({"a.labels.json": b"[2000000000]"}, "counted from 0, got 2000000000 among 1 samples"),
        ({"a.mask.png": b"x"}, r"holds no mask \(a mask must be a PNG"),
        ({"a.value.json": b"[1, NaN]"}, "holds no value"),
        ({"a.boxes.json": b"[]"}, "holds no boxes"),
        ({"a.labels.json": b"[0]", "a.value.json": b"[0]"}, "one kind of target.*labels and value.*--target labels"),
    ],
)
def test_tars_of_others_with_targets_that_cannot_be(target, message, tmp_path):
    tar(tmp_path / "x.tar", [("a.jpg", jpeg(0)), *target.items()])
    for read in (index_tars, lambda path: find_source(str(path))):
        with pytest.raises(DataError, match=message):
            read(tmp_path)
    index_tars(tmp_path, target="none")
    assert (ShardSet.open(tmp_path).target, find_source(str(tmp_path)).target) == (None, None)


def test_the_kind_and_the_names_of_targets_can_be_said(tmp_path, capsys):
    files = [("a.jpg", jpeg(0)), ("a.labels.json", b"[1]"), ("a.value.json", b"[0.5]"), ("b.jpg", jpeg(1))]
    tar(tmp_path / "x.tar", [*files, ("b.labels.json", b"[2]")])
    (tmp_path / "names").write_text("sky\nsea\nsand\n")
    assert main(["index", str(tmp_path), "--target", "value"]) == 3
    assert "b has no value.json. All samples have one, or none has" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"x\.tar: b\.labels\.json holds no labels"):
        index_tars(tmp_path, target="labels", classes=["sky", "sea"])
    assert main(["index", str(tmp_path), "--target", "labels", "--classes", str(tmp_path / "names")]) == 0
    assert label_names(tmp_path) == {jpeg(0): {"sea"}, jpeg(1): {"sand"}}
    assert find_source(str(tmp_path)).classes == ("sky", "sea", "sand")


def test_images_with_other_numbers_of_values_are_refused(tmp_path):
    files = [("a.jpg", jpeg(0)), ("a.value.json", b"[1]"), ("b.jpg", jpeg(1)), ("b.value.json", b"[1, 2]")]
    tar(tmp_path / "x.tar", files)
    with pytest.raises(DataError, match="as many values, got 1 for one and 2 for another"):
        index_tars(tmp_path)


def test_an_interrupted_writing_with_targets_goes_on(tmp_path):
    source = made("labels", some_targets("labels") * 3)

    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(source, tmp_path / "out", WHOLE, stop)
    write_shards(source, tmp_path / "out", WHOLE)
    write_shards(source, tmp_path / "whole", WHOLE)
    assert {f.name: f.read_bytes() for f in (tmp_path / "out").iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "whole").iterdir()
    }
    shutil.rmtree(tmp_path / "whole")
    write_shards(find_source(str(tmp_path / "out")), tmp_path / "whole", WHOLE)
    assert len(ShardSet.open(tmp_path / "whole")) == 9
