"""One directory per checkpoint: written beside its final place, flushed, marked complete, then renamed.

A directory `step_00000120` holds `state.ckpt` (trainer state), `encoder/` (the encoder folder) and `COMPLETE` (sizes of
all files). A kill at any moment leaves the previous checkpoints whole and at most one `.partial` directory, which the
next save removes.
"""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from swinmim.errors import CheckpointError

COMPLETE = "COMPLETE"
STATE = "state.ckpt"


def step_folder(root: Path, step: int) -> Path:
    """Name of the checkpoint of an optimizer step; no `=`, which Hydra's command line could not take."""
    return root / f"step_{step:08d}"


def begin(folder: Path) -> Path:
    """Make the empty partial directory of a checkpoint, and return it. Leftovers of killed saves are removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    for leftover in folder.parent.glob(".step_*.partial"):
        shutil.rmtree(leftover)
    partial = folder.parent / f".{folder.name}.partial"
    partial.mkdir()
    return partial


def commit(partial: Path, folder: Path) -> None:
    """Flush all files, write the marker and give the checkpoint its name."""
    files = sorted(path for path in partial.rglob("*") if path.is_file())
    for path in files:
        _fsync(path)
    marker = partial / COMPLETE
    marker.write_text(json.dumps({str(path.relative_to(partial)): path.stat().st_size for path in files}, indent=1))
    _fsync(marker)
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
    _fsync(folder.parent)


def problem(folder: Path) -> str | None:
    """Why a checkpoint directory cannot be used, or None when every file has the size it was written with."""
    try:
        sizes: dict[str, int] = json.loads((folder / COMPLETE).read_text())
    except (OSError, ValueError):
        return f"{folder.name} has no readable {COMPLETE} marker"
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            found = f"has {path.stat().st_size}" if path.is_file() else "is gone"
            return f"{folder.name}/{name} should have {size} bytes and {found}"
    return None


def newest(root: Path) -> tuple[Path | None, list[str]]:
    """Newest usable checkpoint under a directory, and the reasons why newer ones were passed over."""
    skipped: list[str] = []
    for folder in sorted(root.glob("step_*"), reverse=True):
        reason = problem(folder)
        if reason is None:
            return folder, skipped
        skipped.append(reason)
    return None, skipped


def find(path: Path) -> Path:
    """The checkpoint directory a user means: itself, its state file, or the newest one of a run.

    Raises:
        CheckpointError: there is none, or it is incomplete.
    """
    if path.name == STATE:
        path = path.parent
    if (path / STATE).exists():
        if reason := problem(path):
            raise CheckpointError(f"checkpoint {path} is incomplete: {reason}. Resume from an older step beside it.")
        return path
    found, skipped = newest(path / "checkpoints")
    if found is None:
        raise CheckpointError(
            f"resume={path}: no usable checkpoint found{' (' + '; '.join(skipped) + ')' if skipped else ''}. "
            "Give a run directory or one of its checkpoints/step_* directories."
        )
    return found


def prune(root: Path, keep_last: int, keep: Iterable[Path]) -> None:
    """Remove all but the newest `keep_last` checkpoints and the ones named."""
    kept = {path.resolve() for path in keep}
    for folder in sorted(root.glob("step_*"))[:-keep_last]:
        if folder.resolve() not in kept:
            shutil.rmtree(folder)


def point(link: Path, target: Path) -> None:
    """Make or replace a relative symbolic link in one step."""
    temporary = link.with_name(f".{link.name}.partial")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(target, link.parent))
    temporary.replace(link)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
