"""What lies in a folder of images: a sorted listing, and classes where the tree has them."""

import os
from pathlib import Path

from data.codecs.formats import CLIPS, EXTENSIONS, HEAD, is_image_head
from data.sources.masks import label_masks
from data.sources.source import NO_EXTENSION, TWICE, FileSource, Item, is_hidden, not_a_clip, not_an_image
from swinmim.errors import DataError
from swinmim.outside import Unreadable, one_line, open_regular

Files = list[tuple[str, os.stat_result]]


class FolderSource(FileSource):
    """The images or clips of a folder, sorted by path.

    classes: sorted names of the first-level directories when every image lies in one of at least two; else empty.
    skipped: (path, reason) of all else that is visible and not read.
    notes: why there are no classes, and whether some images are masks of others.
    """


def _walk(root: Path) -> tuple[Files, list[tuple[str, str]]]:
    """All visible files below root as ("a/b.jpg", stat), and (path, reason) of what cannot be read or was already.

    Links are followed, each directory once. Raises DataError for a directory that cannot be read.
    """
    found: Files = []
    skipped: list[tuple[str, str]] = []
    seen: set[tuple[int, int]] = set()
    folders: list[tuple[Path, str]] = [(root, "")]
    links: list[tuple[Path, str]] = []  # last, so that a folder that lies here goes by its own name
    while folders or links:
        directory, prefix = (folders or links).pop()
        try:
            stat = directory.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                skipped.append((prefix.rstrip("/"), TWICE))
                continue
            seen.add((stat.st_dev, stat.st_ino))
            with os.scandir(directory) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            fix = "" if directory == root else f" Make it readable, or move it out of {root}."
            raise DataError(f"The folder {directory} cannot be read ({error.strerror}).{fix}") from error
        for entry in listed:
            name = prefix + entry.name
            if is_hidden(entry.name):
                continue
            try:
                if entry.is_dir():
                    (links if entry.is_symlink() else folders).append((Path(entry.path), f"{name}/"))
                elif entry.is_file():
                    found.append((name, entry.stat()))
                else:
                    skipped.append((name, "a link to nothing" if entry.is_symlink() else "not a file"))
            except OSError as error:
                skipped.append((name, str(error.strerror)))
    return sorted(found), skipped


def _begins_like_an_image(path: Path) -> bool:
    try:
        with open_regular(path) as file:
            return is_image_head(file.read(HEAD))
    except (OSError, Unreadable):
        return False


def _sieved(root: Path, files: Files, clips: bool) -> tuple[Files, list[tuple[str, str]]]:
    """The images or clips among them, and (path, reason) of the others."""
    chosen, others = [], []
    for name, stat in files:
        reason = not_a_clip(name) if clips else not_an_image(name)
        if reason is None or (reason == NO_EXTENSION and _begins_like_an_image(root / name)):
            chosen.append((name, stat))
        else:
            others.append((name, reason))
    return chosen, others


def read_folder(
    root: str | Path, classes: tuple[str, ...] | None = None, *, clips: bool | None = False
) -> FolderSource:
    """List a folder of any depth.

    Args:
        root: the folder.
        classes: those expected of a second split of the same set; None finds them.
        clips: list clips instead of images; None lists them where there are no images.

    Raises:
        DataError: the path is missing or no folder; it holds no images (or clips), or a folder that cannot be read; or
            a class directory is not among `classes`.
    """
    root = Path(root)
    if not root.exists():
        raise DataError(f"A source of images must exist, got {root} (from {Path.cwd()}). Check the spelling.")
    if not root.is_dir():
        raise DataError(f"A source is a folder of images, a list, a tar or a shard set, got the file {root}.")
    files, skipped = _walk(root)
    images, others = _sieved(root, files, bool(clips))
    if not images and clips is None:
        found = _sieved(root, files, True)
        clips = bool(found[0])
        images, others = found if clips else (images, others)
    skipped += others
    if not images:
        endings = sorted({os.path.splitext(name)[1].lower().lstrip(".") or "none" for name, _ in skipped})
        held = f"{len(skipped)} other files (extensions: {', '.join(endings[:8])})" if skipped else "no files"
        what, accepted = ("clips", CLIPS) if clips else ("images", sorted(EXTENSIONS))
        hint = " Clips are for task=video." if not clips and set(CLIPS) & set(endings) else ""
        raise DataError(
            f"No {what} found in {root}: it holds {held}. Accepted extensions: {', '.join(accepted)}.{hint}"
        )
    tops = [name.split("/", 1)[0] if "/" in name else None for name, _ in images]
    named = {top for top in tops if top is not None}
    masks = "" if clips else label_masks(root, [name for name, _ in images])
    notes: tuple[str, ...] = ()
    if classes is None:
        classes = tuple(sorted(named)) if None not in tops and len(named) > 1 and not masks else ()
    elif unknown := sorted(named - set(classes)):
        raise DataError(
            f"Every split must have the same classes; {root} has {', '.join(unknown[:5])}, which training lacks."
        )
    if masks:
        notes = (masks,)
    elif not classes:
        stray = next((name for name, _ in images if "/" not in name), None)
        notes = (
            one_line(f"{stray} lies in no class folder" if stray else f"all images lie in the one folder {min(named)}"),
        )
    number: dict[str | None, int] = {name: label for label, name in enumerate(classes)}
    items = [
        Item(name, number.get(top, -1), stat.st_size, stat.st_mtime_ns)
        for (name, stat), top in zip(images, tops, strict=True)
    ]
    return FolderSource(
        items=items, classes=classes, skipped=tuple(sorted(skipped)), notes=notes, root=root, clips=bool(clips)
    )
