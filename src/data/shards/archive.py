"""Tars: written so that they are the same bytes every time, and listed so that no damage passes unseen."""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from swinmim.errors import DataError
from swinmim.outside import one_line

BLOCK = 512  # tar's unit; the header of a member lies in the block before its data
_PADDING = 4 << 20  # zeros after the last member, at most; tars end with two blocks of them, filled up to a record


class TarWriter:
    """A tar that is the same bytes whenever and by whomever it is written (USTAR, no times, no owners).

    webdataset's own writer streams through `tarfile` and does not tell where a member begins, which is the index.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self.size = 0

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns where its data begins."""
        info = tarfile.TarInfo(name)
        info.size = len(data)
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        offset = self.size
        self._write(data)
        self._write(bytes(-len(data) % BLOCK))
        return offset

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def close(self) -> str:
        """End the archive, put it on the disk, and return its sha256."""
        self._write(bytes(2 * BLOCK + -(self.size + 2 * BLOCK) % tarfile.RECORDSIZE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._hash.hexdigest()


def write_file(path: Path, data: bytes) -> None:
    """Write through a temporary name, so that the name never shows half a file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Member(NamedTuple):
    """A regular file in a tar: its name, and where its data begins and how long it is, in bytes."""

    name: str
    offset: int
    size: int


def members(file: BinaryIO, name: str, begin: int = 0, size: int | None = None) -> Iterator[Member | None]:
    """The regular files of an uncompressed tar in order; None for each link or special file, which is left out.

    Args:
        file: the open tar.
        name: how errors call it.
        begin, size: where it lies in the file, and its bytes, when it is a part of it.

    Raises:
        DataError: not a tar, cut anywhere, damaged between members, several tars joined, a sparse file, or a name that
            leads out of its folder.
    """
    length = os.fstat(file.fileno()).st_size if size is None else begin + size
    file.seek(begin)
    if length == begin:
        raise DataError(f"{name} is empty (0 bytes). Copy it again.")
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                if info.offset >= length:  # of what comes after this part of the file
                    break
                if info.issparse():
                    raise DataError(
                        f"{name} holds {one_line(info.name)} as a sparse file, in pieces. Make the tar without -S."
                    )
                if info.offset_data + (info.size if info.isreg() else 0) > length:
                    raise DataError(f"{name} was cut inside {one_line(info.name)}. Copy it again.")
                if info.name.startswith("/") or ".." in info.name.split("/"):
                    raise DataError(f"{name} holds {info.name!r}, a name that leads out of its folder. It is not read.")
                if not info.isdir():
                    yield Member(info.name, info.offset_data, info.size) if info.isreg() else None
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps every member ever seen
            # tarfile stops without a word at a damaged header, and where a file was cut between two members.
            end = tar.offset
            file.seek(end)
            block = file.read(max(0, min(BLOCK, length - end)))
            if begin == end and any(block):  # also at the first header, where that is not the first of the file
                tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{name} is no whole, uncompressed tar ({error}). Copy or unpack it again.") from error
    if len(block) < BLOCK:
        raise DataError(f"{name} ends without a tar's end mark: it was cut between two members. Copy it again.")
    if any(block):
        raise DataError(f"{name} has a damaged header at byte {end - begin}. Copy it again.")
    if length - end > _PADDING + 2 * BLOCK:
        raise DataError(
            f"{name} has {length - end:,} bytes after its last member, more than a tar's end mark takes: a copy that"
            " broke off, or tars that were joined. Copy it again, or unpack it with tar --ignore-zeros."
        )
    if any(file.read(length - end - BLOCK)):
        raise DataError(
            f"{name} goes on after its end mark at byte {end - begin}: tars that were joined. What follows would be"
            " lost; keep them apart, or join them with tar --concatenate."
        )
