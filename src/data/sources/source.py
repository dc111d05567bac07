"""What a source of images is: a sorted listing, and the bytes of each item."""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.codecs.formats import EXTENSIONS
from data.codecs.targets import TargetKind
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


def is_hidden(name: str) -> bool:
    """Whether a part of a path has a name that no listing shows."""
    return any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.split("/"))


def not_an_image(name: str) -> str | None:
    """Why a file of this name is left out; None for an image."""
    if name.endswith(".index.npy"):
        return "the index of a shard"
    extension = os.path.splitext(name)[1].lower().lstrip(".")
    if extension in EXTENSIONS:
        return None
    return f"not an image by its name (.{extension})" if extension else "no extension"


@dataclass(frozen=True)
class Source(ABC):
    """Where images come from. Must be picklable: each encoder process gets a copy.

    items: the images.
    classes: names in label order; where there are targets, of what these count.
    skipped: (file, reason) of what is no image.
    notes: what the user should know about the labels.
    target: the kind of target that every image has, if any.
    stored: the manifest of the shard set that this is, if it is one.
    """

    items: Sequence[Item]
    classes: tuple[str, ...] = ()
    skipped: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    target: TargetKind | None = None
    stored: Manifest | None = None

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
        return (self.root / self.items[position].name).read_bytes()
