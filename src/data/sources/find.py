"""What a name on the command line means as a source of images."""

import os
from collections.abc import Iterator
from pathlib import Path

from data.codecs.targets import IGNORED, Needs
from data.sources import hub, listing
from data.sources.annotated import read_annotated
from data.sources.folder import read_folder
from data.sources.source import Source, is_hidden, not_an_image
from data.sources.tars import read_tars
from swinmim.errors import DataError
from swinmim.outside import one_line


def find_source(name: str, needs: Needs | None = None, ignore_index: int = IGNORED) -> Source:
    """Open a folder of images, a list file, a tar, a folder of tars (WebDataset or ImageNet), or "hf-dataset:NAME".

    Args:
        name: as typed.
        needs: which targets are looked for beside a folder's images; None for any.
        ignore_index: value in mask files of pixels without a class.

    Raises:
        DataError: nothing of the kind, or nothing usable in it.
    """
    if name.startswith(hub.SCHEME):
        return hub.read_dataset(name.removeprefix(hub.SCHEME))
    if "://" in name:
        raise DataError(
            f"A source lies on this machine, got {name}. Download it first. (Training reads finished shard sets from"
            " their URL: data.path=URL.)"
        )
    path = Path(name)
    kind = path.suffix.lower()
    if kind in listing.SUFFIXES and path.is_file():
        return listing.read_list(path, needs, ignore_index)
    if kind == ".tar" and path.is_file():
        return read_tars([path])
    if kind in (".tgz", ".gz", ".bz2", ".xz", ".zip") and path.is_file():
        raise DataError(
            f"Single images of the compressed archive {path} cannot be read. Unpack it, or store it as .tar."
        )
    if path.is_dir() and (tars := sorted(path.glob("*.tar"))) and not any(_is_image(file) for file in path.iterdir()):
        if image := next(_below(path), None):
            raise DataError(
                f"A folder holds either tars or folders of images; {path} has {tars[0].name} and {one_line(image)}."
                " Move the tars elsewhere to read the folders, or give the tars alone"
                f" ({tars[0]}, or a folder of them)."
            )
        return read_tars(tars)
    clips = None if needs is None else needs == "clip"
    return read_annotated(path, needs, ignore_index=ignore_index) or read_folder(path, clips=clips)


def _is_image(file: Path) -> bool:
    return not is_hidden(file.name) and not_an_image(file.name) is None


def _below(path: Path) -> Iterator[str]:
    """Images in the visible folders of `path`, as paths from there."""
    for root, folders, files in os.walk(path, followlinks=False):
        folders[:] = sorted(folder for folder in folders if not is_hidden(folder))
        yield from (os.path.relpath(os.path.join(root, file), path) for file in sorted(files) if _is_image(Path(file)))
