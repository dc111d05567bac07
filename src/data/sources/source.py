"""What a source of images is: a sorted listing, and the bytes of each item."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

EXTENSIONS = frozenset(
    ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "dib", "tif", "tiff", "gif", "ppm", "pgm", "pnm", "jp2", "npy")
)  # a first sieve only; the decoder looks at the bytes


@dataclass(frozen=True)
class Item:
    """One file: path relative to the folder, with "/", and its label (-1 without)."""

    name: str
    label: int
    size: int
    mtime_ns: int


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


class Source(Protocol):
    """Where images come from. Must be picklable: each encoder process gets a copy.

    items: the images; classes: names in label order; folders: how many hold images; skipped: (file, reason) of what is
    no image; notes: what the user should know about the labels.
    """

    @property
    def items(self) -> Sequence[Item]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def folders(self) -> int: ...
    @property
    def skipped(self) -> tuple[tuple[str, str], ...]: ...
    @property
    def notes(self) -> tuple[str, ...]: ...
    def load(self, position: int) -> bytes: ...
