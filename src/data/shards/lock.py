"""The lock that processes of a node share."""

import errno
import os
import stat
from pathlib import Path

from filelock import FileLock

FOLDER = ".locks"


def shared_lock(path: Path) -> FileLock:
    """A lock on what lies at a path, for `with`. The kernel ends it with the process that holds it, also where that one
    is killed while children that it forked live on.

    Its file lies in a directory of its own beside the path, and stays: another process may be waiting for it. Neither
    is ever a link, which someone else may have put there.

    Raises OSError, also when the lock is taken.
    """
    folder = path.parent / FOLDER
    folder.mkdir(exist_ok=True)
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    return FileLock(folder / path.name, fallback_to_soft=False)  # a soft lock would outlive a killed process
