"""The directory that a shard set is written into: new, or one in which the same plan was interrupted."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.shards.manifest import is_shard_set
from data.sources.folder import FolderSource
from data.sources.source import Source, is_hidden
from data.write.plan import WriteOptions, plan_hash
from swinmim.errors import DataError
from swinmim.outside import Unreadable, open_own, read_json

PLAN = "plan.json"  # there, and locked, while the set is being written


def check_destination(source: Source, dest: Path, options: WriteOptions) -> dict[str, Any]:
    """What `PLAN` has to hold.

    Raises:
        DataError: `dest` lies where `source` is read, is no directory, or holds something else.
    """
    if isinstance(source, FolderSource):
        root, place = source.root.resolve(), dest.resolve()
        if place.is_relative_to(root) and not is_hidden(str(place.relative_to(root))):
            raise DataError(f"Shards are written outside of their source, {dest} lies in {root}. Choose another place.")
    whole = {"plan": plan_hash(source, options, times=True), "options": options.recorded()}
    _check_held(dest, whole)
    return whole


def _check_held(dest: Path, whole: dict[str, Any]) -> None:
    try:
        held = {file.name for file in dest.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(
            f"Shards are written into a directory, got {dest} ({error.strerror}). Choose another."
        ) from error
    if not held - {PLAN}:
        return
    try:
        begun = read_json(dest / PLAN, dict[str, Any])
    except (OSError, Unreadable):
        what = "already a shard set" if is_shard_set(dest) else "not an empty directory"
        raise DataError(
            f"Shards are written into a new directory, {dest} is {what}. Choose another or remove it."
        ) from None
    if begun != whole:
        old, new = begun.get("options"), whole["options"]
        old = old if isinstance(old, dict) else {}
        changed = [f"{key} was {old.get(key)}, is {value}" for key, value in new.items() if old.get(key) != value]
        raise DataError(
            f"{dest} holds an unfinished set from another plan ({'; '.join(changed) or 'the source has changed'})."
            " Give the same source and options to finish it, or remove the directory."
        )


@contextmanager
def claimed(source: Source, dest: Path, options: WriteOptions) -> Iterator[None]:
    """Make `dest`, or take it over where the same plan was interrupted, and keep other processes out.

    Raises:
        DataError: as `check_destination`; another process writes there; or it cannot be made.
    """
    whole = check_destination(source, dest, options)
    try:
        dest.mkdir(parents=True, exist_ok=True)
        lock = os.fdopen(open_own(dest / PLAN), "r+b")
    except OSError as error:
        raise DataError(
            f"Shards are written into a directory that can be made, got {dest} ({error.strerror}). Choose another."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"One process at a time writes into {dest}. Wait for the other, or end it.") from None
        _check_held(dest, whole)  # another may have ended in between
        lock.truncate(0)
        lock.write(json.dumps(whole).encode())
        lock.flush()
        os.fsync(lock.fileno())
        yield
