"""What others wrote is data: regular files of bounded size, JSON of bounded depth and of a declared type, text that a
terminal obeys no part of.
"""

import errno
import json
import logging
import os
import re
import reprlib
import stat
import struct
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

if TYPE_CHECKING:
    from pydantic import ValidationError

T = TypeVar("T")

LARGEST = 64_000_000
"""Bytes of a JSON file, where its reader names no other limit."""

UNLOADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch.load raises for bytes that are no checkpoint, beside UnpicklingError."""

# C0 but tab and line feed, DEL, C1, what turns the direction of writing or breaks a line, and what is no text at all
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


class Unreadable(ValueError):
    """Why a file is not what it should be: "is no regular file". It names no file, since its reader knows it best."""


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a file; of a pipe, a device, or a file of more than `limit` bytes nothing is read.

    Raises Unreadable: it is one of these; OSError: the operating system refuses.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise Unreadable(f"has {size:,} bytes, more than it can have ({limit:,})")
        return file.read(size)  # what the kernel makes up as it is read has size 0


def open_regular(path: Path) -> BinaryIO:
    """A file to read from, never a pipe or device, which may never end. Raises as `read_regular`."""
    _check_kind(os.stat(path))  # opening a device may already do something
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        _check_kind(os.fstat(file.fileno()))
    except Unreadable:
        file.close()
        raise
    return file


def _check_kind(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise Unreadable("is no regular file")


def read_json(path: Path, kind: type[T], limit: int = LARGEST) -> T:
    """A JSON file as `kind`, anything that pydantic knows, without conversions; all numbers in it are finite.

    Raises Unreadable: see `read_regular`; no JSON, nested too deeply, or of another type; OSError.
    """
    return parse_json(read_regular(path, limit), kind)


def parse_json(data: bytes, kind: type[T]) -> T:
    """The same of bytes. Raises Unreadable."""
    from pydantic import TypeAdapter, ValidationError  # not on the way of each command to its first word
    from pydantic_core import from_json

    try:
        json.dumps(from_json(data, allow_inf_nan=False), allow_nan=False)  # 1e400 becomes infinite
    except ValueError as error:
        raise Unreadable(f"is no JSON of finite numbers: {error}") from None
    try:
        return TypeAdapter(kind).validate_json(data, strict=True)
    except ValidationError as error:
        raise Unreadable("; ".join(faults(error)[:5])) from None


def faults(error: "ValidationError") -> list[str]:
    """Each field at fault, in words."""
    found = []
    for item in error.errors(include_url=False, include_context=False):
        name = printable(".".join(map(str, item["loc"])))[:100]
        match item["type"]:
            case "missing" | "missing_argument" | "missing_keyword_only_argument":
                found.append(f"{name} is missing")
            case "extra_forbidden" | "unexpected_keyword_argument":
                found.append(f"{name} is unknown")
            case "value_error" if not name:  # of the whole, whose rule says what was received
                found.append(item["msg"].removeprefix("Value error, "))
            case _:
                rule = item["msg"].removeprefix("Value error, ")
                found.append(f"{name + ': ' if name else ''}{rule}; got {brief(item['input'])}")
    return found


def brief(value: Any) -> str:
    """A value of any size and depth in a few printable characters."""
    text = _short.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= 60 else text[:57] + "..."


def printable(text: str) -> str:
    """Text with its control characters, but tabs and line feeds, written as escapes."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def one_line(name: str) -> str:
    """A name of others in a message; one with a line feed must not pretend to be two lines of it."""
    return printable(name).replace("\n", "\\n")


class _Record(logging.LogRecord):
    def getMessage(self) -> str:
        return printable(super().getMessage())


def make_logs_printable() -> None:
    """Whatever this process logs from now on, terminals obey no part of it."""
    logging.setLogRecordFactory(_Record)


def open_own(path: Path) -> int:
    """A descriptor of a file of ours to write or to lock, made if need be; never through a link, which someone else may
    have put there.

    Raises OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)  # less the umask
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return descriptor
