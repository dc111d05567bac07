"""Images whose targets lie in files of their own: who reads which kind, found by looking.

A reader gets a directory, and the classes that its set must have or None for those that are found; it returns None
where what it knows does not lie there, and raises DataError where that is there and wrong.
"""

from collections.abc import Callable
from pathlib import Path

from data.codecs.targets import Needs, TargetKind
from data.sources.source import FileSource

Reader = Callable[[Path, tuple[str, ...] | None], FileSource | None]

READERS: dict[TargetKind, tuple[Reader, ...]] = {}


def read_annotated(path: Path, needs: Needs | None, classes: tuple[str, ...] | None = None) -> FileSource | None:
    """The images at `path` with the targets that `needs` names, or any for None; None where there are none such."""
    wanted = READERS if needs is None else READERS.keys() & {needs}
    for kind in READERS:
        for read in READERS[kind] if kind in wanted else ():
            if (source := read(path, classes)) is not None:
                return source
    return None
