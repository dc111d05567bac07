"""Images that lie in tars: ImageNet's (a tar a class, or tars in a tar), a packed folder, or WebDataset shards."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data.archive import Member, members
from data.folder import EXTENSIONS, Item
from swinmim.errors import DataError


class _Found(NamedTuple):
    name: str
    tar: int
    member: Member
    label: str | None


@dataclass(frozen=True)
class TarSource:
    """Images at known places of uncompressed tars; each is read on its own.

    places: (number of the tar, first byte, bytes) of each item.
    """

    tars: Sequence[Path]
    places: Sequence[tuple[int, int, int]]
    items: Sequence[Item]
    classes: tuple[str, ...]
    folders: int
    skipped: tuple[tuple[str, str], ...] = ()

    def load(self, position: int) -> bytes:
        """The bytes of item `position`; raises OSError."""
        tar, offset, size = self.places[position]
        file = os.open(self.tars[tar], os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.pread(file, size, offset)
        finally:
            os.close(file)
        if len(data) != size:
            raise OSError(f"{self.tars[tar]} ended early")
        return data


def _inside(file: BinaryIO, name: str, base: int) -> list[tuple[str | None, Member]]:
    """Members with the name of the tar in the tar that holds them, None at the top; offsets count from the outside."""
    found: list[tuple[str | None, Member]] = []
    for member in members(file, name):
        if member is None:
            continue
        if member.name.endswith(".tar") and base == 0:
            part = _Window(file, member.offset, member.size)
            inner = Path(member.name).stem
            for _, deep in _inside(part, f"{name}/{member.name}", member.offset):  # type: ignore[arg-type]
                found.append((inner, deep._replace(offset=deep.offset + member.offset)))
        else:
            found.append((None, member))
    return found


class _Window:
    """A part of a file as a file of its own: a tar in a tar."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, count: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        data = os.pread(self._file.fileno(), left if count < 0 else min(count, left), self._start + self._at)
        self._at += len(data)
        return data


def read_tars(paths: Sequence[Path]) -> TarSource:
    """List the images of tars.

    Labels are, in this order: the `.cls` beside an image (WebDataset); the tar in a tar it lies in, or its tar where
    all names begin with the tar's (ImageNet); its folder, when images lie in at least two. All or no image has one.

    Raises:
        DataError: a damaged tar, the same name twice in a tar, or no images.
    """
    found: list[_Found] = []
    skipped: list[tuple[str, str]] = []
    numbered = False  # labels are numbers of a WebDataset, not names
    for number, path in enumerate(paths):
        try:
            file = path.open("rb")
        except OSError as error:
            raise DataError(f"{path} cannot be opened ({error.strerror}).") from error
        with file:
            listed = _inside(file, str(path), 0)
            names = [(inner, member.name) for inner, member in listed]
            if len(set(names)) != len(names):
                twice = next(name for _, name in names if names.count((_, name)) > 1)
                raise DataError(f"{path} holds {twice} twice. Remove one of them.")
            classes = {
                m.name.removesuffix(".cls"): os.pread(file.fileno(), m.size, m.offset)
                for _, m in listed
                if m.name.endswith(".cls")
            }
            own = bool(listed) and all(Path(m.name).name.startswith(path.stem + "_") for _, m in listed)
        for inner, member in listed:
            stem, _, extension = member.name.rpartition(".")
            if extension.lower() not in EXTENSIONS:
                if extension not in ("cls", "json", "txt"):
                    skipped.append((f"{path.name}/{member.name}", f"not an image by its name (.{extension})"))
                continue
            text = classes.get(stem)
            numbered |= text is not None
            folder = Path(member.name).parent.name
            label = (
                text.decode(errors="replace").strip()
                if text is not None
                else inner or (path.stem if own else folder or None)
            )
            found.append(_Found(f"{path.name}/{f'{inner}/' if inner else ''}{member.name}", number, member, label))
    if not found:
        raise DataError(f"No images found in {', '.join(str(path) for path in paths[:3])}.")
    found.sort()
    names_of = sorted(
        {entry.label for entry in found if entry.label is not None},
        key=lambda name: (numbered and name.isdigit(), int(name) if numbered and name.isdigit() else 0, name),
    )
    labelled = len(names_of) > 1 and all(entry.label is not None for entry in found)
    classes_out = tuple(names_of) if labelled else ()
    if numbered and labelled:
        with suppress(ValueError):  # names instead of numbers are classes like any others
            classes_out = tuple(str(n) for n in range(max(int(name) for name in names_of) + 1))
    label_of = {name: n for n, name in enumerate(classes_out)}
    items = [Item(e.name, label_of.get(e.label or "", -1) if labelled else -1, e.member.size, 0) for e in found]
    folders = len({entry.name.rpartition("/")[0] for entry in found})
    places = [(entry.tar, entry.member.offset, entry.member.size) for entry in found]
    return TarSource([path.absolute() for path in paths], places, items, classes_out, folders, tuple(skipped))
