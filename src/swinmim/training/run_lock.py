"""One run per directory: a lock that is held for the life of a run and tells others whose it is.

The kernel ends it with its process, however that ends, so a dead owner's is free at once; over NFS, when the server
misses the owner's machine.
"""

import errno
import fcntl
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from swinmim.errors import ConfigError
from swinmim.outside import Unreadable, one_line, open_own, read_json

log = logging.getLogger(__name__)

NAME = ".run_lock"
PATIENCE = 120.0
"""Seconds to wait for an owner on another machine: a server learns of a machine that is gone only after a while."""
_UNABLE = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_UNNOTICED = "Two runs with this output_dir would not notice each other, so start one only."
_LARGEST = 1000


class Owner(NamedTuple):
    """The process that holds the lock."""

    host: str
    process: int
    since: str

    def __str__(self) -> str:
        return f"process {self.process} on {one_line(self.host)}, since {one_line(self.since)}"


@contextmanager
def held(output_dir: Path) -> Iterator[None]:
    """Hold the directory of a run, which is made if need be and removed again where it stays empty.

    Raises ConfigError: another run holds it, with host and process; or it cannot be made or written to.
    """
    path = output_dir / NAME
    made = [folder for folder in (output_dir, *output_dir.parents) if not folder.exists()]
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        lock = _take(path)
    except OSError as error:
        _remove(made)
        raise ConfigError(
            f"output_dir={output_dir} cannot be used: {error.strerror}. Choose a directory that this user may write to."
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):  # the directory may have been moved away, and others may lie at its place
            if _is_at(lock, path):
                path.unlink()
        os.close(lock)
        _remove(made)


def _take(path: Path) -> int:
    begun = time.monotonic()
    waiting = False
    while True:
        lock = open_own(path)
        try:
            # Of the process, not of the open file as flock is: children that outlive a killed run do not hold it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if error.errno in _UNABLE:
                log.warning("The disk of %s has no locks (%s). %s", path.parent, error.strerror, _UNNOTICED)
                return os.open(os.devnull, os.O_RDONLY)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            owner = _owner(path)
            near = owner is None or owner.host == socket.gethostname()
            if time.monotonic() - begun > (1 if near else PATIENCE):
                raise ConfigError(
                    f"output_dir={path.parent} belongs to a run that goes on: {owner or 'another process'}. Wait for "
                    "it, end it, or choose another output_dir."
                ) from None
            if not near and not waiting:
                log.warning("%s is held by %s; waiting up to %.0f s for it to end", path.parent, owner, PATIENCE)
                waiting = True
            time.sleep(0.1)
            continue
        if _is_at(lock, path):
            break
        os.close(lock)  # its owner has just ended and taken the name away
    if _is_local(path.parent.stat().st_dev, _mounts()):
        log.warning("The disk of %s is NFS that keeps locks to one machine. %s", path.parent, _UNNOTICED)
    owner = Owner(socket.gethostname(), os.getpid(), datetime.now().isoformat(" ", "seconds"))
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps(owner._asdict()).encode(), 0)
    return lock


def _is_at(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.lstat())
    except FileNotFoundError:
        return False


def _owner(path: Path) -> Owner | None:
    try:
        return read_json(path, Owner, _LARGEST)
    except (OSError, Unreadable):  # it is just being written, or taken away
        return None


def _remove(made: list[Path]) -> None:
    with suppress(OSError):  # something lies in it by now
        for folder in made:
            folder.rmdir()


def _mounts() -> str:
    try:
        return Path("/proc/self/mountinfo").read_text(errors="replace")
    except OSError:  # not on Linux
        return ""


def _is_local(device: int, mounts: str) -> bool:
    """Whether a mount is NFS whose locks other machines do not see (mount options nolock, local_lock)."""
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(
        number in line.split()[:3] and re.search(r" - nfs\d? .*\b(nolock|local_lock=(all|posix))\b", line)
        for line in mounts.splitlines()
    )
