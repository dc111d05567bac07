import os
from typing import Any, NamedTuple

import pytest

from swinmim.outside import Unreadable, brief, parse_json, printable, read_json, read_regular


class Entry(NamedTuple):
    bytes: int
    sha256: str


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"a": 1e400}', "finite"),
        (b'{"a": NaN}', "finite"),
        (b'{"a": -Infinity}', "finite"),
        (b"[" * 100_000, "recursion limit"),
        (b"1" * 5000, "out of range"),
        (b"\xff\xfe", "is no JSON"),
        (b"", "is no JSON"),
        (b"[1]", "should be an object; got [1]"),
        (b'{"a": {"bytes": "1", "sha256": "x"}}', "a.bytes: Input should be a valid integer; got '1'"),
        (b'{"a": {"bytes": true, "sha256": "x"}}', "a.bytes"),
        (b'{"a": {"bytes": 1}}', "a.sha256 is missing"),
        (b'{"a": {"bytes": 1, "sha256": "x", "z": 1}}', "a.z is unknown"),
        (b'{"\\u001b[2J": {"bytes": 1}}', r"\x1b[2J.sha256 is missing"),
    ],
)
def test_what_is_not_of_the_type_is_named(text, problem):
    with pytest.raises(Unreadable) as caught:
        parse_json(text, dict[str, Entry])
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 300


def test_what_is_of_the_type_arrives_as_it(tmp_path):
    (tmp_path / "file").write_bytes(b'{"a": {"bytes": 1, "sha256": "x"}}')
    assert read_json(tmp_path / "file", dict[str, Entry]) == {"a": Entry(1, "x")}
    assert read_json(tmp_path / "file", dict[str, Any])["a"]["bytes"] == 1


def test_only_regular_files_of_bounded_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(20 << 30)
    (tmp_path / "link").symlink_to("pipe")
    for name, reason in {
        "pipe": "no regular file",
        "link": "no regular file",
        ".": "no regular file",
        "sparse": "has 21,474,836,480 bytes, more than it can have (10)",
        "/dev/zero": "no regular file",
    }.items():
        with pytest.raises(Unreadable) as caught:
            read_regular(tmp_path / name, 10)
        assert reason in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none", 10)
    (tmp_path / "ten").write_bytes(b"0123456789")
    assert read_regular(tmp_path / "ten", 10) == b"0123456789"
    assert read_regular("/proc/self/status", 10) == b""


def test_a_terminal_obeys_nothing_of_what_is_shown():
    assert printable("a\x1b[2J\x07\x9b\u202e\n\té") == r"a\x1b[2J\x07\x9b\u202e" + "\n\té"
    assert len(brief({"a" * 1000: ["b" * 1000] * 1000})) <= 60
    assert brief("\x1b\u2028") == r"'\x1b\u2028'"
