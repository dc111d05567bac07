"""What a source of images is: a sorted listing, and the bytes of each item."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from data.codecs.bands import MAX_BYTES
from data.codecs.formats import CLIPS, EXTENSIONS
from data.codecs.targets import TargetKind
from swinmim.outside import Unreadable, read_regular

if TYPE_CHECKING:
    from data.shards.manifest import Manifest


@dataclass(frozen=True)
class Item:
    """One file.

    name: path relative to the folder, with "/".
    label: -1 without.
    size: bytes; 0 where that is not known before it is read.
    mtime_ns: when it was changed last.
    target: what the listing holds of its target: the member itself as text, or what tells its file from another.
    """

    name: str
    label: int
    size: int
    mtime_ns: int
    target: str = ""


_OF_SYSTEMS = ("__MACOSX", "Thumbs.db", "ehthumbs.db", "desktop.ini")


def is_hidden(name: str) -> bool:
    """Whether a part of a path has a name that no listing shows."""
    return any((part.startswith(".") and part != ".") or part in _OF_SYSTEMS for part in name.split("/"))


INDEX = "the index of a shard"
TWICE = "a link to a folder that is read under another name"
NO_EXTENSION = "no extension, and no image by its first bytes"
_DOCUMENTS = ("txt", "json", "jsonl", "xml", "csv", "tsv", "md", "rst", "html", "yaml", "yml", "log", "pdf")
_READ_BY_PEOPLE = ("readme", "license", "copying", "makefile")


def not_an_image(name: str) -> str | None:
    """Why a file of this name is left out; None for an image."""
    if name.endswith(".index.npy"):
        return INDEX
    extension = os.path.splitext(name)[1].lower().lstrip(".")
    if extension in EXTENSIONS:
        return None
    return f"not an image by its name (.{extension})" if extension else NO_EXTENSION


def not_a_clip(name: str) -> str | None:
    """Why a file of this name is left out of a source of clips; None for a clip."""
    extension = os.path.splitext(name)[1].lower().lstrip(".")
    return None if extension in CLIPS else f"not a clip by its name (.{extension})"


def is_lost(name: str, reason: str) -> bool:
    """Whether a file that is left out for this reason may be an image that someone misses: no text beside images."""
    stem, extension = os.path.splitext(os.path.basename(name).lower())
    document = extension[1:] in _DOCUMENTS or (reason == NO_EXTENSION and stem in _READ_BY_PEOPLE)
    return not document and reason not in (INDEX, TWICE)


def read_file(path: Path) -> bytes:
    """The bytes of a file that may be an image; raises OSError, also for a pipe or device, and for what is larger."""
    try:
        return read_regular(path, MAX_BYTES)
    except Unreadable as error:
        raise OSError(f"it {error}") from error


def read_bounded(file: BinaryIO, size: int, offset: int) -> bytes:
    """So many bytes; raises OSError where they are more than an image may have, before they are read, or not there."""
    if size > MAX_BYTES:
        raise OSError(f"it has {size:,} bytes, more than it can have ({MAX_BYTES:,})")
    data = os.pread(file.fileno(), size, offset)
    if len(data) != size:
        raise OSError("it ended early")
    return data


@dataclass(frozen=True)
class Source(ABC):
    """Where images come from. Must be picklable: each encoder process gets a copy.

    items: the images.
    classes: names in label order; where there are targets, of what these count.
    skipped: (file, reason) of what is no image.
    notes: what the user should know about the labels.
    target: the kind of target that every image has, if any.
    stored: the manifest of the shard set that this is, if it is one.
    clips: the items are clips, which are stored as they are.
    """

    items: Sequence[Item]
    classes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    target: TargetKind | None = None
    stored: "Manifest | None" = None
    clips: bool = False

    @property
    def folders(self) -> int:
        """How many hold images."""
        return len({item.name.rpartition("/")[0] for item in self.items})

    @abstractmethod
    def load(self, position: int) -> bytes:
        """The bytes of item `position`; raises OSError."""

    def load_target(self, position: int) -> bytes:
        """The target of item `position` as `data.codecs.targets` encodes it, for the whole, upright image; raises
        OSError. Asked only where there is a kind of target."""
        return self.items[position].target.encode()


@dataclass(frozen=True, kw_only=True)
class FileSource(Source):
    """Images that are files at and below `root`."""

    root: Path

    def load(self, position: int) -> bytes:
        return read_file(self.root / self.items[position].name)
