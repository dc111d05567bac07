"""The manifest of a shard set, checked whole before anything believes it: sets come from servers and strangers."""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from data.codecs.bands import FULL_RANGE, Bits
from data.codecs.targets import MEMBERS, TargetKind
from data.shards.archive import write_file
from swinmim.errors import DataError
from swinmim.outside import Unreadable, brief, read_regular

MANIFEST = "manifest.json"
VERSION, TARGET_VERSION = 1, 2  # of a set without targets, and of one with a target beside each image
LARGEST = 256 << 20  # bytes of a manifest; a shard takes about 250

# Beside the manifest, and without what a terminal would obey or a file system cannot spell.
_NAME = re.compile(r"[^/\x00-\x1f\x7f-\x9f\ud800-\udfff]*\.tar")
_NAME_BYTES = 240  # leaves room for the endings of the files beside it
_MOST = 2**48  # samples or bytes; their sums stay below 2**63
_SHOWN = 50  # problems in one message


def is_shard_name(name: str) -> bool:
    """Whether this may be the name of a shard."""
    return _NAME.fullmatch(name) is not None and len(name.encode()) <= _NAME_BYTES


def _where(holds: Callable[[Any], bool], rule: str) -> tuple[AfterValidator, Any]:
    """A condition on the whole of a field, and its name in errors."""

    def check(value: Any) -> Any:
        if not holds(value):
            raise ValueError(rule)
        return value

    return AfterValidator(check), Field(description=rule)


# The descriptions are what errors say.
_Count = Annotated[int, Strict(), Field(ge=0, le=_MOST, description=f"a whole number from 0 to {_MOST}")]
_Value = Annotated[int, Strict(), Field(ge=-_MOST, le=_MOST)]
_Sha256 = Annotated[str, Field(pattern=r"\A[0-9a-f]{64}\z", description="64 hexadecimal digits")]
_Share = Annotated[float, Strict(), Field(ge=0, le=1)]
_Deviation = Annotated[float, Strict(), Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class Shard:
    """One line of the manifest."""

    name: Annotated[str, *_where(is_shard_name, f"a .tar beside the manifest, of at most {_NAME_BYTES} bytes")]
    samples: _Count
    bytes: _Count
    sha256: _Sha256
    index_sha256: _Sha256

    @property
    def index_name(self) -> str:
        return self.name.removesuffix(".tar") + ".index.npy"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a manifest holds, in the order in which it is written. Sets of the first days lack what has a default.

    samples, options, plan and skipped are for people; no part of the program reads them. None is not written.
    """

    samples: Annotated[_Count | None, Field(description="a whole number from 0 on")] = None
    channels: Annotated[int, Strict(), Field(ge=1, le=_MOST, description="a whole number from 1 on")]
    bits: Annotated[Bits, Field(description="8 or 16")] = 8
    value_range: Annotated[
        tuple[_Value, _Value], *_where(lambda ends: ends[0] < ends[1], "two whole numbers, the second above the first")
    ] = FULL_RANGE
    mean: Annotated[tuple[_Share, ...], Field(description="a list of numbers from 0 to 1")]
    std: Annotated[tuple[_Deviation, ...], Field(description="a list of finite numbers above 0")]
    target: Annotated[TargetKind | None, Field(description=", ".join(MEMBERS))] = None
    classes: Annotated[
        tuple[str, ...], *_where(lambda names: len(set(names)) == len(names), "a list of different names")
    ]
    options: Annotated[dict[str, Any], Field(description="a list of options by name")] = field(default_factory=dict)
    plan: Annotated[str | None, Field(description="text")] = None
    skipped: Annotated[_Count | None, Field(description="a whole number from 0 on")] = None
    shards: Annotated[tuple[Shard, ...], *_where(bool, "a list of at least one shard")]

    @property
    def version(self) -> int:
        return TARGET_VERSION if self.target else VERSION

    def write(self, folder: Path) -> None:
        """Put it into the directory of the set."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        text = json.dumps({"format": "swinmim-shards", "version": self.version} | known, indent=1) + "\n"
        write_file(folder / MANIFEST, text.encode())


def is_shard_set(path: Path) -> bool:
    return (path / MANIFEST).exists()  # of any kind: one that is no file is refused by its name, not passed over


def read_manifest(path: Path) -> tuple[bytes, Manifest]:
    """The manifest of directory `path`, as bytes and parsed.

    Raises:
        DataError: missing, not JSON, of another version, or with fields that cannot be; all of them listed.
    """
    file = path / MANIFEST
    try:
        text = read_regular(file, LARGEST)
    except OSError as error:
        raise DataError(
            f"A shard set is a directory with {MANIFEST}, got {path} ({error.strerror})."
            " Write one with: python -m data.write SOURCE DESTINATION"
        ) from error
    except Unreadable as error:
        raise DataError(f"{file} is not a shard manifest (it {error}). Write the shards again.") from error
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not a shard manifest ({error}). Write the shards again.") from error
    if not isinstance(fields, dict) or type(fields.get("version")) is not int:
        raise DataError(f"{file} is not a shard manifest (no version). Write the shards again.")
    if fields["version"] not in (VERSION, TARGET_VERSION):
        raise DataError(
            f"{file} has version {brief(fields['version'])}, this program reads version {VERSION} and {TARGET_VERSION}."
        )
    found = _across(fields)
    try:
        manifest = TypeAdapter(Manifest).validate_python(fields)
    except ValidationError as error:
        found = [*_told(error, fields), *found]
    if found:
        raise DataError(f"{file} is no usable manifest: {listed(found)}\nCopy it again, or write the shards again.")
    return text, manifest


def _told(error: ValidationError, fields: dict[str, Any]) -> list[str]:
    """One line for each field that breaks its rule, however many of its items do."""
    rules = TypeAdapter(Manifest).json_schema()
    rules, of_shard = rules["properties"], rules["$defs"]["Shard"]["properties"]
    found: dict[tuple[int | str, ...], str] = {}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        match problem["loc"]:
            case ("shards", int() as number):
                text = f"shards[{number}] must hold {', '.join(of_shard)}, got {brief(fields['shards'][number])}"
            case ("shards", int() as number, name) if name in of_shard:
                text = _broken(f"shards[{number}].", str(name), of_shard, fields["shards"][number])
            case ("shards", int() as number, name):
                text = f"shards[{number}] holds {brief(name)}, which this program does not know"
            case (name, *_):
                text = _broken("", str(name), rules, fields)
        found.setdefault(problem["loc"][: 3 if problem["loc"][0] == "shards" else 1], text)
    return list(found.values())


def _broken(where: str, name: str, rules: dict[str, Any], fields: dict[str, Any]) -> str:
    got = f"got {brief(fields[name])}" if name in fields else "is missing"
    return f"{where}{name} must be {rules[name]['description']}, {got}"


def _across(fields: dict[str, Any]) -> list[str]:
    """What does not fit together, said beside the fields that break a rule of their own."""
    found = [
        f"{name} must have one number per channel, got {len(of)} for {brief(fields.get('channels'))}"
        for name in ("mean", "std")
        if isinstance(of := fields.get(name), list) and len(of) != fields.get("channels")
    ]
    if (fields["version"] == TARGET_VERSION) != (fields.get("target") is not None):
        found.append(f"target belongs to version {TARGET_VERSION}, got {brief(fields.get('target'))}")
    lines = fields.get("shards")
    names = Counter(
        line["name"]
        for line in (lines if isinstance(lines, list) else ())
        if isinstance(line, dict) and isinstance(line.get("name"), str)
    )
    return found + [f"shards name {brief(name)} {count} times" for name, count in names.items() if count > 1]


def listed(found: Sequence[str]) -> str:
    """Problems, one a line."""
    shown = "\n  ".join(found[:_SHOWN]) + (f"\n  and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
    return f"{len(found)} problem(s):\n  {shown}"
