"""The lock that processes of a node share."""

from pathlib import Path

from filelock import FileLock


def shared_lock(path: Path) -> FileLock:
    """A lock on a file, for `with`. The kernel ends it with the process that holds it, also where that one is killed
    while children that it forked live on. The file stays: another process may be waiting for it."""
    return FileLock(path, fallback_to_soft=False)  # a soft lock would outlive a killed process
