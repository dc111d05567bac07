"""Columns of numbers: which are taken, what the errors say, and the way into a set."""

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from data.codecs.targets import decode_target
from data.shards.local import ShardSet
from data.sources.columns import value_targets
from data.sources.find import find_source
from data.sources.listing import read_list
from data.write.pack import pack
from data.write.writer import WriteOptions
from swinmim.errors import DataError


@pytest.fixture
def images(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        Image.new("RGB", (16, 16), "red").save(tmp_path / name)
    return tmp_path


def write(folder, text, name="list.csv"):
    (folder / name).write_text(text)
    return folder / name


def values(source):
    return [json.loads(item.target) for item in source.items]


def test_columns_of_numbers_are_the_values_whatever_else_there_is(images):
    source = read_list(
        write(images, "path,age,who,label,height\na.jpg,1,x,2,+.5\nb.jpg, 2 ,y,2,1e2\nc.jpg,-3.5,,0,7\n"), "value"
    )
    assert source.target == "value"
    assert source.classes == ("age", "label", "height")
    assert values(source) == [[1.0, 2.0, 0.5], [2.0, 2.0, 100.0], [-3.5, 0.0, 7.0]]
    assert source.notes == ("age, label, height", "who left out: no numbers")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,age\na.jpg,1\nb.jpg,\n",
            r"in .*list\.csv column age has an empty cell in line 3, and a number in 1 of 2",
        ),
        ("path,age\na.jpg,1\nb.jpg\n", "column age has an empty cell in line 3"),
        ("path,age\na.jpg,1\nb.jpg,old\n", r"column age has 'old' in line 3.* Fill it, or drop the column"),
        ('path,who,age\na.jpg,"x\ny",1\nb.jpg,z,"1,5"\n', "column age has '1,5' in line 4"),
        ("path,age\na.jpg,1\nb.jpg,nan\n", "has 'nan' in line 3"),
        ("path,age\na.jpg,1\nb.jpg,1_000\n", "has '1_000' in line 3"),
        ("path,age\na.jpg,1\nb.jpg,1e39\n", "has '1e39' in line 3"),
        ("path,who\na.jpg,x\nb.jpg,y\n", "Values need a column of numbers beside path; .* has who, without any number"),
        ("path\na.jpg\n", r"beside path; .* has none\."),
    ],
)
def test_text_and_empty_cells_are_named_with_their_line(images, text, message):
    with pytest.raises(DataError, match=message):
        read_list(write(images, text), "value")


@pytest.mark.parametrize(
    ("number", "shown"), [(None, "an empty cell"), (True, "True"), ([1], r"\[1\]"), (10**400, "10000"), ("1", None)]
)
def test_lists_of_json_hold_numbers_as_numbers_or_text(images, number, shown):
    lines = [{"path": "a.jpg", "age": 1}, {"path": "b.jpg", "age": number}]
    path = write(images, "\n\n".join(map(json.dumps, lines)), "list.jsonl")
    if shown is None:
        assert values(read_list(path, "value")) == [[1.0], [1.0]]
    else:
        with pytest.raises(DataError, match=rf"column age has {shown}.* in line 3"):
            read_list(path, "value")


def test_parquet_has_values_too(images):
    parquet.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "age": [1.5, 2.5]}), images / "list.parquet")
    assert values(read_list(images / "list.parquet", "value")) == [[1.5], [2.5]]
    parquet.write_table(pa.table({"path": ["a.jpg", "b.jpg"], "age": [1.5, None]}), images / "list.parquet")
    with pytest.raises(DataError, match="an empty cell in line 3"):
        read_list(images / "list.parquet", "value")


def test_without_being_asked_for_values_stand_back(images):
    path = write(images, "path,age,label\na.jpg,1,x\nb.jpg,2,y\n")
    assert (read_list(path).target, read_list(path).classes) == (None, ("x", "y"))
    assert find_source(str(path)).target is None
    path = write(images, "path,age,size\na.jpg,1,3\nb.jpg,2,\n")
    assert read_list(path).target is None
    found = find_source(str(path))  # as `python -m data.write` does
    assert (found.target, found.classes) == ("value", ("age",))
    assert "warning: column size has an empty cell in line 3" in found.notes[1]
    path = write(images, "path,size\na.jpg,x\nb.jpg,y\n")
    assert find_source(str(path)).target is None


def test_values_reach_the_set_and_new_ones_another(images):
    path = write(images, "path,age\na.jpg,1.25\nb.jpg,2\nc.jpg,3\n")
    shards = ShardSet.open(pack(path, images / "cache", WriteOptions(workers=1), needs="value"))
    assert (shards.target, shards.classes) == ("value", ("age",))
    found = sorted(float(decode_target("value", shards.read_target(n), 1)[0]) for n in range(3))
    assert found == [1.25, 2.0, 3.0]
    write(images, "path,age\na.jpg,1.5\nb.jpg,2\nc.jpg,3\n")
    assert pack(path, images / "cache", WriteOptions(workers=1), needs="value") != shards.path


def test_many_columns_keep_their_order():
    names = [f"c{n}" for n in range(20)]
    table = np.random.default_rng(0).random((5, 20)).astype(np.float32)
    rows = [dict(zip(names, row.tolist(), strict=True)) for row in table]
    found, targets, _ = value_targets(rows, range(5), names, "x", strict=True)
    assert list(found) == names
    np.testing.assert_array_equal([decode_target("value", text.encode(), 20) for text in targets], table)
