"""Sets whose manifest or index says what cannot be, and shards that are not what was indexed."""

import hashlib
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.shards.cache import open_remote
from data.shards.local import ShardSet
from data.shards.manifest import Shard, read_manifest
from data.shards.remote import Remote
from data.shards.rows import INDEX, index_bytes, read_indices
from swinmim.errors import DataError

DROP = object()


@dataclass
class Copy:
    """A set that its tests change."""

    path: Path

    def __post_init__(self):
        self.manifest = json.loads((self.path / "manifest.json").read_text())

    @property
    def shard(self):
        return Shard(**self.manifest["shards"][0])

    def write(self, fields=None, shard=None):
        for place, changes in ((self.manifest, fields or {}), (self.manifest["shards"][0], shard or {})):
            for name, value in changes.items():
                place[name] = value
                if value is DROP:
                    del place[name]
        (self.path / "manifest.json").write_text(json.dumps(self.manifest))

    def rows(self):
        return read_indices(self.path, read_manifest(self.path)[1])[: self.shard.samples].copy()

    def write_index(self, data):
        (self.path / self.shard.index_name).write_bytes(data)
        self.write(shard={"index_sha256": hashlib.sha256(data).hexdigest()})


@pytest.fixture
def copy(shard_dir, tmp_path):
    return Copy(Path(shutil.copytree(shard_dir, tmp_path / "copy")))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": DROP}, "channels must be a whole number from 1 on, is missing"),
        ({"channels": 0}, "channels must be .* got 0"),
        ({"channels": "3"}, "channels must be .* got '3'"),
        ({"channels": 10**9}, "mean must have one number per channel, got 3 for 1000000000"),
        ({"bits": 12}, "bits must be 8 or 16, got 12"),
        ({"bits": True}, "bits must be 8 or 16, got True"),
        ({"classes": DROP}, "classes must be .* is missing"),
        ({"classes": "abc"}, "classes must be a list of different names, got 'abc'"),
        ({"classes": [1, 2]}, "classes must be"),
        ({"classes": ["a", "a"]}, "classes must be"),
        ({"mean": DROP}, "mean must be .* is missing"),
        ({"mean": [math.nan] * 3}, "mean must be a list of numbers from 0 to 1, got .nan"),
        ({"mean": [-0.1] * 3}, "mean must be"),
        ({"mean": [0.5, 0.5]}, "mean must have one number per channel, got 2 for 3"),
        ({"std": [0, 0, 0]}, "std must be a list of finite numbers above 0, got .0, 0, 0"),
        ({"std": [0.1, 0.1, math.inf]}, "std must be"),
        ({"std": [True] * 3}, "std must be"),
        ({"shards": {}}, "shards must be a list of at least one shard"),
        ({"shards": []}, "shards must be a list of at least one shard"),
        ({"shards": ["a"]}, r"shards\[0\] must hold name, samples"),
        *(
            ({"value_range": value}, "value_range must be two whole numbers, the second above the first, got ")
            for value in (None, 5, [0], [0, 1, 2], [1, 1], [2, 1], [0, 1.0], [False, 1], ["0", "1"], [0, 10**30], {})
        ),
        ({"skipped": "x"}, "skipped must be a whole number from 0 on, got 'x'"),
        ({"options": 1}, "options must be a list of options by name, got 1"),
        ({"target": "labels"}, "target belongs to version 2, got 'labels'"),
        ({"version": 2}, "target belongs to version 2, got None"),
        ({"version": 2, "target": "words"}, "target must be labels, value, mask, boxes, got 'words'"),
        ({"version": DROP}, "no version"),
        ({"version": True}, "no version"),
        ({"version": 3}, "version 3, this program reads version 1 and 2"),
    ],
)
def test_fields_that_cannot_be(copy, fields, message):
    copy.write(fields)
    with pytest.raises(DataError, match=message) as error:
        ShardSet.open(copy.path)
    assert str(copy.path / "manifest.json") in str(error.value)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("samples", value) for value in (-1, 10**30, 7.0, "7", True, None, DROP)),
        *(("bytes", value) for value in (-1, 10**30, "x", True, DROP)),
        *(("sha256", value) for value in ("/victim/x", "../../x", "A" * 64, "a" * 63, "a" * 64 + "\n", None, DROP)),
        *(("index_sha256", value) for value in ("/victim/x", None, DROP)),
        *(("name", v) for v in (5, "../x.tar", "a/x.tar", "a\0.tar", "\x1b[2Jx.tar", "a\n.tar", "x.zip", "\ud800.tar")),
        *(("name", value) for value in ("a" * 240 + ".tar", "é" * 120 + ".tar", "x.tar\n", DROP)),
        ("url", "https://example.com"),
    ],
)
def test_shards_that_cannot_be(copy, field, value):
    copy.write(shard={field: value})
    with pytest.raises(DataError, match=rf"shards\[0\](\.{field} must be | holds '{field}')"):
        ShardSet.open(copy.path)


def test_a_sha256_never_leads_out_of_the_cache(copy, tmp_path, monkeypatch):
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "poetry.lock").write_text("precious")
    copy.write(shard={"sha256": str(tmp_path / "victim" / "poetry")})
    monkeypatch.setattr(Remote, "read", lambda _, name, *__, **___: (copy.path / name).read_bytes())
    monkeypatch.setattr(Remote, "fetch", lambda _, name, dest, *__: shutil.copy(copy.path / name, dest))
    with pytest.raises(DataError, match=r"shards\[0\]\.sha256 must be 64 hexadecimal digits"):
        open_remote("https://example.com/set", tmp_path / "cache", 10**9)
    assert [file.read_text() for file in (tmp_path / "victim").iterdir()] == ["precious"]
    copy.write(shard={"sha256": "0" * 64})
    assert len(open_remote("https://example.com/set", tmp_path / "cache", 10**9)) == 40


def test_all_problems_are_listed_at_once(copy):
    copy.manifest["shards"] *= 2
    copy.write({"std": [0, 0, 0], "classes": DROP}, {"samples": -1})
    listed = (
        r"(?s)10 problem.*std .*classes .*shards\[6\].samples .*'train-000000.tar' 2 times.*'train-000005.tar' 2 times"
    )
    with pytest.raises(DataError, match=listed):
        ShardSet.open(copy.path)


@pytest.mark.parametrize("text", [b"[" * 100_000, b"\xff\xfe\x00", b"[1]", b'"x"', b"", b'{"version": 1' + b"0" * 5000])
def test_what_is_no_manifest(copy, text):
    (copy.path / "manifest.json").write_bytes(text)
    with pytest.raises(DataError, match=r"manifest\.json is not a shard manifest"):
        ShardSet.open(copy.path)


@pytest.mark.parametrize("field", ["classes", "channels", "bits", "target", "version"])
@pytest.mark.parametrize("value", ["x" * 10**6, ["x"] * 10**5, {"x" * 99: 1}, "\x1b[2J\u202e", "deep"])
def test_what_errors_show_is_short_and_plain(copy, field, value):
    copy.write({field: json.loads("[" * 900 + "]" * 900) if value == "deep" else value})
    with pytest.raises(DataError) as error:
        ShardSet.open(copy.path)
    text = str(error.value).replace(str(copy.path), "")
    assert len(text) < 500
    assert text.replace("\n", "").isprintable()


def test_a_manifest_too_large_to_be_one_is_not_parsed(copy, monkeypatch):
    monkeypatch.setattr("data.shards.manifest.LARGEST", 1000)
    with pytest.raises(DataError, match=r"is not a shard manifest \(it has .* more than it can have \(1,000\)"):
        ShardSet.open(copy.path)


def test_manifests_of_the_first_days_open(copy):
    copy.write({"bits": DROP, "value_range": DROP, "plan": DROP, "skipped": DROP, "samples": DROP})
    assert ShardSet.open(copy.path).bits == 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("offset", value) for value in (0, -512, 513, 2**62, 2**63 - 1)),
        *(("size", value) for value in (2**32 - 1, 512 * 2**20 + 1, 600_000)),
        ("suffix", 8),
        ("label", -2),
        ("label", 2),
    ],
)
def test_index_rows_that_cannot_be(copy, field, value):
    rows = copy.rows()
    rows[field][3] = value
    copy.write_index(index_bytes(rows.tolist()))
    with pytest.raises(DataError, match=rf"train-000000.index.npy: sample 3 cannot be .*'{field}': {value}"):
        ShardSet.open(copy.path)


def test_a_size_beyond_the_limit_is_refused_though_the_shard_holds_it(copy):
    rows = copy.rows()
    rows["size"][3] = 513 << 20
    copy.write_index(index_bytes(rows.tolist()))
    with (copy.path / copy.shard.name).open("r+b") as file:
        file.truncate(1 << 30)  # takes no room on the disk
    copy.write(shard={"bytes": 1 << 30})
    with pytest.raises(DataError, match="sample 3 cannot be"):
        ShardSet.open(copy.path)


@pytest.mark.parametrize(
    "change", [lambda data: b"junk" * 17 + data, lambda data: data + b"x", lambda data: data[:-17]]
)
def test_an_index_of_another_length_is_refused(copy, change):
    copy.write_index(change((copy.path / copy.shard.index_name).read_bytes()))
    with pytest.raises(DataError, match=r"train-000000.index.npy: \d+ bytes, expected \d+"):
        ShardSet.open(copy.path)
    assert INDEX.itemsize == 17


def test_a_replaced_shard_of_the_same_size_is_noticed(copy):
    shards = ShardSet.open(copy.path)
    tar = copy.path / copy.shard.name
    whole, offset = tar.read_bytes(), int(copy.rows()["offset"][1])
    size = len(shards.read(1).data)
    assert int(whole[offset - 512 + 124 : offset - 512 + 135], 8) == size
    for field in (b"%011o\0" % (size + 1), b"%011o\0" % 1, b"jpeg pixels.", bytes(12)):
        tar.write_bytes(whole[: offset - 512 + 124] + field + whole[offset - 512 + 136 :])
        with pytest.raises(DataError, match=r"Sample 1 is not where the index says.*train-000000\.tar"):
            shards.read(1)
        assert shards.read(0).key == "000000000"
    other = (copy.path / shards.shards[1].name).read_bytes()
    tar.write_bytes(other[: len(whole)].ljust(len(whole), b"\0"))
    with pytest.raises(DataError, match="is not where the index says"):
        [shards.read(number) for number in range(copy.shard.samples)]
