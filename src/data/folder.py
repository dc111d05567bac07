"""What lies in a folder of images: a sorted listing, and classes where the tree has them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swinmim.errors import DataError

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


@dataclass(frozen=True)
class FolderSource:
    """The images of a folder, sorted by path.

    classes: sorted names of the first-level directories when every image lies in one of at least two; else empty.
    skipped: (path, reason) of files that are not images by name.
    """

    root: Path
    items: Sequence[Item]
    classes: tuple[str, ...]
    folders: int
    skipped: tuple[tuple[str, str], ...] = field(default=())

    def load(self, position: int) -> bytes:
        """The bytes of item `position`; raises OSError."""
        return (self.root / self.items[position].name).read_bytes()


def _walk(root: Path) -> list[tuple[str, os.stat_result]]:
    """All visible files below root as ("a/b.jpg", stat). Links are followed, each directory once."""
    found: list[tuple[str, os.stat_result]] = []
    seen: set[tuple[int, int]] = set()
    stack = [(root, "")]
    while stack:
        directory, prefix = stack.pop()
        stat = directory.stat()
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda e: e.name):
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if entry.is_dir():
                    stack.append((Path(entry.path), f"{prefix}{entry.name}/"))
                elif entry.is_file():
                    found.append((prefix + entry.name, entry.stat()))
    return sorted(found)


def read_folder(root: str | Path, classes: tuple[str, ...] | None = None) -> FolderSource:
    """List a folder of any depth.

    Args:
        root: the folder.
        classes: expected class names, for a second split of the same set; None finds them.

    Raises:
        DataError: the path is missing or no folder; it holds no images; or a class directory is not among `classes`.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(f"data.path must exist, got {root} (from {Path.cwd()}). Check the spelling.")
    if not root.is_dir():
        raise DataError(f"data.path must be a folder of images or a shard set, got the file {root}.")
    images, skipped, others = [], [], set()
    for name, stat in _walk(root):
        extension = os.path.splitext(name)[1].lower().lstrip(".")
        if extension in EXTENSIONS:
            images.append((name, stat))
        else:
            others.add(extension or "none")
            skipped.append((name, f"not an image by its name (.{extension})" if extension else "no extension"))
    if not images:
        held = f"{len(skipped)} other files (extensions: {', '.join(sorted(others)[:8])})" if skipped else "no files"
        raise DataError(
            f"No images found in {root}: it holds {held}. Accepted extensions: {', '.join(sorted(EXTENSIONS))}."
        )
    tops = [name.split("/", 1)[0] if "/" in name else None for name, _ in images]
    named = {top for top in tops if top is not None}
    if classes is None:
        classes = tuple(sorted(named)) if None not in tops and len(named) > 1 else ()
    elif unknown := sorted(named - set(classes)):
        raise DataError(
            f"Every split must have the same classes; {root} has {', '.join(unknown[:5])}, which training lacks."
        )
    number = {name: label for label, name in enumerate(classes)}
    items = [
        Item(name, number.get(top, -1) if top is not None else -1, stat.st_size, stat.st_mtime_ns)
        for (name, stat), top in zip(images, tops, strict=True)
    ]
    folders = len({name.rpartition("/")[0] for name, _ in images})
    return FolderSource(root, items, classes, folders, tuple(skipped))
