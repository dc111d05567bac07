"""Tars for the tests, written by Python's own tarfile."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from made_images import image_bytes, make_pixels


def tar(path: Path, files: Iterable[tuple[str, bytes | str | None]]) -> Path:
    """Each file is (name, bytes), (name, "target") for a link, or (name, None) for a folder."""
    with tarfile.open(path, "w") as out:
        for name, data in files:
            info = tarfile.TarInfo(name)
            if isinstance(data, str):
                info.type, info.linkname = tarfile.SYMTYPE, data
                out.addfile(info)
            elif data is None:
                info.type = tarfile.DIRTYPE
                out.addfile(info)
            else:
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    return path


def jpeg(number: int) -> bytes:
    return image_bytes(make_pixels(number, 32, 40))
