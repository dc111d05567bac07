"""One directory per checkpoint: written beside its final place, flushed, marked complete, then renamed.

A directory `step_00000120` holds `state.ckpt` (trainer state: a file, or a directory of all ranks' shards), `encoder/`
(the encoder folder), `config.json` (the run's settings) and, written last, `COMPLETE` (size and SHA-256 of every file).
A kill at any moment leaves the previous checkpoints whole and at most one hidden `.partial` directory, which the next
save removes. Nothing is written outside the checkpoint's own parent directory.
"""

import errno
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, Field

from swinmim.checkpoint.digest import Entry, digest
from swinmim.errors import CheckpointError
from swinmim.outside import LARGEST, Unreadable, brief, parse_json, read_json, read_regular

log = logging.getLogger(__name__)

COMPLETE = "COMPLETE"
STATE = "state.ckpt"
CONFIG = "config.json"
VERSION = 1
"""Of the marker."""
THREADS = 4
LARGEST_CONFIG = 1 << 20
"""Bytes of `config.json`; the settings of a run take some 4,000."""


def _inside(name: str) -> str:
    if not name.isprintable() or not all(part.strip(".") for part in name.split("/")):
        raise ValueError("must be a path inside of the checkpoint")
    return name


class Marker(NamedTuple):
    """What `COMPLETE` says: how many checkpoints the run had written before this one, and all files."""

    version: int
    number: Annotated[int, Field(ge=0)]
    files: dict[Annotated[str, AfterValidator(_inside)], Entry]

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entry in self.files.values())


def step_folder(root: Path, step: int) -> Path:
    """Name of the checkpoint of an optimizer step; no `=`, which Hydra's command line could not take."""
    return root / f"step_{step:08d}"


def draft_path(folder: Path) -> Path:
    """Where a checkpoint is while it is being written."""
    return folder.with_name(f".{folder.name}.partial")


class Draft:
    """A checkpoint being written in `path`, a hidden directory beside `folder`. Leftovers of killed saves are removed.

    Raises CheckpointError: the place cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = draft_path(folder)
        self._entries: dict[Path, Future[Entry]] = {}
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="checkpoint")
        with explained(folder.parent):
            folder.parent.mkdir(exist_ok=True)
            for leftover in folder.parent.glob(".step_*.partial"):
                shutil.rmtree(leftover)
            for old in folder.parent.glob("step_*_old"):
                if old.with_name(old.name.removesuffix("_old")).exists():
                    _remove(old)
            self.path.mkdir()

    def seal(self, part: Path) -> None:
        """Flush and hash what lies under a path, in threads; it must not change any more."""
        for path in files(part):
            self._entries[path] = self._pool.submit(digest, path, flush=True)

    def sealed(self, path: Path, entry: Entry) -> None:
        """Take the size and hash of a file that is on the disk already."""
        self._entries[path] = Future()
        self._entries[path].set_result(entry)

    def commit(self) -> None:
        """Flush what is left, write the marker and give the checkpoint its name.

        Raises CheckpointError: the disk is full or read-only; the older checkpoints are as before.
        """
        with explained(self.folder.parent, self.path):
            for path in files(self.path):
                if path not in self._entries:
                    self.seal(path)
            entries = {str(path.relative_to(self.path)): entry.result() for path, entry in self._entries.items()}
            self._pool.shutdown()
            number = 1 + max((marker.number for _, marker in _marked(self.folder.parent)), default=0)
            listed = {name: entry._asdict() for name, entry in sorted(entries.items())}
            text = {"version": VERSION, "number": number, "files": listed}
            (self.path / COMPLETE).write_text(json.dumps(text, indent=1))
            _fsync(self.path / COMPLETE)
            for directory in (self.path, *(path for path in self.path.rglob("*") if path.is_dir())):
                _fsync(directory)
            _replace(self.path, self.folder)


@contextmanager
def explained(root: Path, writing: Path | None = None) -> Iterator[None]:
    """What the operating system says against writing a checkpoint, as an error that names the disk and what it lacks.

    writing: the unfinished checkpoint, removed when the disk is full. Raises CheckpointError: instead of OSError.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(_reason(error, root, writing)) from error


def _reason(error: OSError, root: Path, writing: Path | None) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(root).free
        written = sum(path.stat().st_size for path in files(writing)) if writing and writing.exists() else 0
        last = max((marker.bytes for _, marker in _marked(root)), default=0)
        needs = f"{last:,} bytes as the last one did" if last else f"more than the {written:,} bytes that fitted"
        if writing is not None:
            shutil.rmtree(writing, ignore_errors=True)
        return (
            f"disk full: the checkpoint needs {needs}; {free:,} bytes are free on the disk of {root} (mounted at "
            f"{_mount(root)}) beside the {written:,} of its unfinished part, which is removed. Older checkpoints are "
            "unharmed. Make room or lower callbacks.checkpoint.keep_last, then continue with resume=auto."
        )
    if not root.parent.is_dir():
        return gone(root.parent)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return (
            f"checkpoints cannot be written to {root}: {os.strerror(error.errno)}. Make it writable for this user, or "
            "choose another output_dir."
        )
    return f"writing a checkpoint to {root} failed: {error}. Older checkpoints are unharmed; resume=auto continues."


def gone(output_dir: Path) -> str:
    """What to say when the directory of a run is not there any more."""
    return (
        f"output_dir={output_dir} is gone: it was moved or removed while the run was writing into it. Its checkpoints "
        "are where it is now; go on with output_dir=THAT_PLACE resume=auto."
    )


def check_writable(root: Path) -> None:
    """Find out at the start of a run whether checkpoints can be written, not after its first epoch.

    Raises CheckpointError: they cannot.
    """
    with explained(root):
        root.mkdir(parents=True, exist_ok=True)
        probe = root / f".writable_{os.getpid()}"
        probe.touch()
        probe.unlink()


def read_marker(folder: Path) -> Marker:
    """The marker of a checkpoint. Raises CheckpointError: there is none that can be read."""
    try:
        data = read_regular(folder / COMPLETE, LARGEST)
        version = parse_json(data, dict[str, Any]).get("version")
        if version != VERSION:
            raise CheckpointError(
                f"{folder.name}/{COMPLETE} is of version {brief(version)}, this program's is {VERSION}"
            )
        return parse_json(data, Marker)
    except FileNotFoundError:
        raise CheckpointError(f"{folder.name} has no {COMPLETE} marker") from None
    except (OSError, Unreadable) as error:
        raise CheckpointError(f"{folder.name}/{COMPLETE} cannot be read: {_why(error)}") from error


def _why(error: OSError | Unreadable) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def problem(folder: Path, *, hashes: bool = True) -> str | None:
    """Why a checkpoint directory cannot be used, or None when every file is what was written.

    hashes: read all bytes and compare their hashes; False compares sizes only.
    """
    try:
        marker = read_marker(folder)
        read_config(folder)
    except CheckpointError as error:
        return str(error)
    for name, entry in marker.files.items():
        path = folder / name
        try:
            found = path.stat()
        except OSError as error:
            return f"{folder.name}/{name} cannot be read: {error.strerror}"
        if not stat.S_ISREG(found.st_mode):
            return f"{folder.name}/{name} is no regular file"
        if found.st_size != entry.bytes:
            return f"{folder.name}/{name} is truncated: it should have {entry.bytes} bytes and has {found.st_size}"
    for needed in (STATE, CONFIG):
        if not any(name.split("/")[0] == needed for name in marker.files):
            return f"{folder.name}/{COMPLETE} lists no {needed}"
    if not hashes:
        return None
    with ThreadPoolExecutor(THREADS) as pool:
        digests = {name: pool.submit(digest, folder / name) for name in marker.files}
    for name, entry in marker.files.items():
        try:
            if digests[name].result() != entry:
                return f"{folder.name}/{name} is damaged: its SHA-256 is not the one it was written with"
        except OSError as error:
            return f"{folder.name}/{name} cannot be read: {error.strerror}"
    return None


def newest(root: Path, unfit: Callable[[Path], str | None] | None = None) -> tuple[Path | None, list[str]]:
    """Last written usable checkpoint under a directory, and the reasons why newer ones were passed over.

    The order is that of writing, not of steps: a run that went back to an older step has left the later ones behind.
    unfit: why one whose files are whole is of no use all the same, or None.
    """
    marked = _marked(root)
    unmarked = sorted(set(root.glob("step_*")) - {folder for folder, _ in marked}, reverse=True)
    skipped: list[str] = []
    for folder, _ in marked:
        reason = problem(folder) or (unfit and unfit(folder))
        if reason is None:
            newer = [str(problem(other)) for other in unmarked if other.name > folder.name]
            return folder, newer + skipped
        skipped.append(reason)
    return None, [str(problem(other)) for other in unmarked] + skipped


def find(path: Path) -> Path:
    """The checkpoint directory a user means: itself, its state, or the newest one of a run.

    Raises CheckpointError: there is none, or it is incomplete or damaged.
    """
    if path.name == STATE:
        path = path.parent
    if (path / STATE).exists():
        if reason := problem(path):
            raise CheckpointError(f"checkpoint {path} cannot be used: {reason}. Resume from an older step beside it.")
        return path
    found, skipped = newest(path / "checkpoints")
    if found is None:
        raise CheckpointError(
            f"resume={path}: no usable checkpoint found{' (' + '; '.join(skipped) + ')' if skipped else ''}. "
            "Give a run directory or one of its checkpoints/step_* directories."
        )
    for reason in skipped:
        log.warning("resume=%s: passed over %s", path, reason)
    return found


def find_newest(root: Path, unfit: Callable[[Path], str | None] | None = None) -> Path | None:
    """The checkpoint that resume=auto continues; None where there are none yet. Says which it passed over and why.

    unfit: see `newest`. Raises CheckpointError: there are checkpoints and none of them can be used.
    """
    found, skipped = newest(root, unfit)
    if found is not None:
        for reason in skipped:
            log.warning("resume=auto: passed over %s. Going on from %s", reason.rstrip("."), found.name)
    if found is None and skipped:
        raise CheckpointError(
            f"resume=auto: none of the {len(skipped)} checkpoints in {root} can be used ({'; '.join(skipped)}). "
            "Move them away to start anew."
        )
    return found


def prune(root: Path, keep_last: int, keep: Collection[Path] = (), keep_every: int | None = None) -> None:
    """Remove all but the last written `keep_last` checkpoints, the ones named, and the steps to keep for good.

    A checkpoint with a missing or truncated file does not count among the last ones, so that the newest sound one is
    never removed; one whose marker cannot be read is left alone.

    keep_every: keep those whose step is a multiple of this number.
    """
    kept = {path.resolve() for path in keep}
    sound = 0
    for folder, _ in _marked(root):
        if sound >= keep_last and folder.resolve() not in kept and not _is_multiple(folder, keep_every):
            _remove(folder)
        elif problem(folder, hashes=False) is None:
            sound += 1


def files(part: Path) -> list[Path]:
    """A file, or all files under a directory, sorted."""
    return [part] if part.is_file() else sorted(path for path in part.rglob("*") if path.is_file())


def point(link: Path, target: Path) -> None:
    """Make or replace a relative symbolic link in one step."""
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)


def read_config(folder: Path) -> Mapping[str, object]:
    """The settings that the run had when it wrote a checkpoint. Raises CheckpointError: they cannot be read."""
    try:
        return read_json(folder / CONFIG, dict[str, Any], LARGEST_CONFIG)
    except (OSError, Unreadable) as error:
        raise CheckpointError(f"{folder.name}/{CONFIG} cannot be read: {_why(error)}") from error


def _is_multiple(folder: Path, every: int | None) -> bool:
    digits = folder.name.removeprefix("step_")
    return every is not None and digits.isdigit() and int(digits) % every == 0


def _marked(root: Path) -> list[tuple[Path, Marker]]:
    """Checkpoints with a readable marker, the last written first."""
    marked = []
    for folder in root.glob("step_*"):
        try:
            marked.append((folder, read_marker(folder)))
        except CheckpointError:
            continue
    return sorted(marked, key=lambda pair: (pair[1].number, pair[0].name), reverse=True)


def _replace(partial: Path, folder: Path) -> None:
    """Rename; an older checkpoint of that name can be found at every moment until the new one can."""
    old = folder.with_name(f"{folder.name}_old")
    if folder.exists():
        if old.exists():
            _remove(old)
        folder.rename(old)
    partial.rename(folder)
    _fsync(folder.parent)
    if old.exists():
        _remove(old)


def _remove(folder: Path) -> None:
    """Take the name away first: a checkpoint that is half removed must not look like one."""
    hidden = draft_path(folder)
    shutil.rmtree(hidden, ignore_errors=True)
    folder.rename(hidden)
    shutil.rmtree(hidden)


def _mount(path: Path) -> Path:
    path = path.resolve()
    while not path.is_mount():
        path = path.parent
    return path


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
