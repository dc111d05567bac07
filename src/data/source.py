"""What a name on the command line means as a source of images."""

from pathlib import Path

from data import hub, listing
from data.folder import EXTENSIONS, read_folder
from data.plan import Source
from data.tars import read_tars
from swinmim.errors import DataError


def find_source(name: str) -> Source:
    """Open a folder of images, a list file, a tar, a folder of tars (WebDataset or ImageNet), or "hf-dataset:NAME".

    Raises:
        DataError: nothing of the kind, or nothing usable in it.
    """
    if name.startswith(hub.SCHEME):
        return hub.read_dataset(name.removeprefix(hub.SCHEME))
    path = Path(name)
    if path.suffix in listing.SUFFIXES and path.is_file():
        return listing.read_list(path)
    if path.suffix == ".tar" and path.is_file():
        return read_tars([path])
    if path.suffix in (".tgz", ".gz", ".bz2", ".xz", ".zip") and path.is_file():
        raise DataError(
            f"Single images of the compressed archive {path} cannot be read. Unpack it, or store it as .tar."
        )
    if path.is_dir() and (tars := sorted(path.glob("*.tar"))) and not _has_images(path):
        return read_tars(tars)
    return read_folder(path)


def _has_images(path: Path) -> bool:
    files = (file for file in path.iterdir() if not file.name.endswith(".index.npy"))  # ours, beside a tar
    return any(file.suffix.lower().lstrip(".") in EXTENSIONS for file in files)
