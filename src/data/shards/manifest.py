"""What a manifest must hold: checked whole before anything believes it, since sets come from servers and strangers."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data.shards.rows import INDEX, _head
from swinmim.errors import DataError

_SHA256 = re.compile(r"[0-9a-f]{64}")
# Beside the manifest, and without what a terminal would obey or a file system cannot spell.
_NAME = re.compile(r"[^/\x00-\x1f\x7f-\x9f\ud800-\udfff]*\.tar")
_NAME_BYTES = 240  # leaves room for the endings of the files beside it
_MOST = 2**48  # samples or bytes; their sums stay below 2**63


def is_shard_name(name: object) -> bool:
    """Whether this may be the name of a shard."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None and len(name.encode()) <= _NAME_BYTES


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= _MOST


def _is_sha256(value: object) -> bool:
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def _is_classes(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)


def _is_shares(value: object) -> bool:
    return isinstance(value, list) and all(type(n) in (int, float) and 0 <= n <= 1 for n in value)


def _is_deviations(value: object) -> bool:
    return isinstance(value, list) and all(type(n) in (int, float) and 0 < n < math.inf for n in value)


_Rules = dict[str, tuple[Callable[[object], bool], str]]
_SET: _Rules = {
    "channels": (lambda value: _is_count(value) and value != 0, "a whole number from 1 on"),
    "bits": (lambda value: type(value) is int and value in (8, 16), "8 or 16"),
    "classes": (_is_classes, "a list of different names"),
    "mean": (_is_shares, "a list of numbers from 0 to 1"),
    "std": (_is_deviations, "a list of finite numbers above 0"),
    "shards": (lambda value: isinstance(value, list) and value != [], "a list of at least one shard"),
}
_SHARD: _Rules = {
    "name": (is_shard_name, f"a .tar beside the manifest, of at most {_NAME_BYTES} bytes"),
    "samples": (_is_count, f"a whole number from 0 to {_MOST}"),
    "bytes": (_is_count, f"a whole number from 0 to {_MOST}"),
    "sha256": (_is_sha256, "64 hexadecimal digits"),
    "index_sha256": (_is_sha256, "64 hexadecimal digits"),
}


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _broken(fields: dict[str, Any], rules: _Rules, where: str) -> list[str]:
    return [
        f"{where}{name} must be {rule}, " + (f"got {_shown(fields[name])}" if name in fields else "is missing")
        for name, (holds, rule) in rules.items()
        if name not in fields or not holds(fields[name])
    ]


def problems(manifest: dict[str, Any]) -> list[str]:
    """All that is wrong with a manifest of this version; empty when it can be used."""
    found = _broken({"bits": 8} | manifest, _SET, "")  # sets of the first days do not name their bits
    for name in ("mean", "std"):
        of = manifest.get(name)
        if isinstance(of, list) and len(of) != manifest.get("channels"):
            found.append(
                f"{name} must have one number per channel, got {len(of)} for {_shown(manifest.get('channels'))}"
            )
    lines = manifest.get("shards")
    names: Counter[str] = Counter()
    for number, line in enumerate(lines if isinstance(lines, list) else ()):
        where = f"shards[{number}]"
        if not isinstance(line, dict):
            found.append(f"{where} must hold {', '.join(_SHARD)}, got {_shown(line)}")
            continue
        found += _broken(line, _SHARD, f"{where}.")
        if unknown := line.keys() - _SHARD.keys():
            found.append(f"{where} holds {_shown(min(unknown))}, which this program does not know")
        if is_shard_name(line.get("name")):
            names[line["name"]] += 1
    return found + [f"shards name {_shown(name)} {count} times" for name, count in names.items() if count > 1]


MANIFEST = "manifest.json"
VERSION = 1

_SHOWN = 50  # problems in one message


class Shard(NamedTuple):
    """One line of the manifest."""

    name: str
    samples: int
    bytes: int
    sha256: str
    index_sha256: str

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".index.npy"

    @property
    def index_size(self) -> int:
        """Bytes of the index file."""
        return len(_head(self.samples)) + self.samples * INDEX.itemsize


def is_shard_set(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def read_manifest(path: Path) -> tuple[bytes, dict[str, Any]]:
    """The manifest of directory `path`, as bytes and parsed; what the rest of the package reads in it, is checked.

    Raises:
        DataError: missing, not JSON, of another version, or with fields that cannot be; all of them listed.
    """
    file = path / MANIFEST
    try:
        text = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"A shard set is a directory with {MANIFEST}, got {path} ({error.strerror})."
            " Write one with: python -m data.write SOURCE DESTINATION"
        ) from error
    try:
        manifest = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not a shard manifest ({error}). Write the shards again.") from error
    if not isinstance(manifest, dict) or type(manifest.get("version")) is not int:
        raise DataError(f"{file} is not a shard manifest (no version). Write the shards again.")
    if manifest["version"] != VERSION:
        raise DataError(f"{file} has version {manifest['version']}, this program reads version {VERSION}.")
    if found := problems(manifest):
        raise DataError(f"{file} is no usable manifest: {_listed(found)}\nCopy it again, or write the shards again.")
    return text, manifest


def _listed(found: Sequence[str]) -> str:
    shown = "\n  ".join(found[:_SHOWN]) + (f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    return f"{len(found)} problem(s):\n  {shown}"
