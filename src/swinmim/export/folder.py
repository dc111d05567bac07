"""A folder that is whole or not there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swinmim.errors import CheckpointError


@contextmanager
def new_folder(destination: str | Path) -> Iterator[Path]:
    """A draft to write into, which takes its name at the end; an error inside leaves nothing.

    Raises CheckpointError: there is something of that name.
    """
    destination = Path(destination)
    if destination.exists() or destination.is_symlink():
        raise CheckpointError(f"{destination} exists; choose another path.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    draft = destination.with_name(f".{destination.name}.draft-{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        yield draft
        draft.rename(destination)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
