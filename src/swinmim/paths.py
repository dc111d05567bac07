"""Paths as people type them, and as commands show them."""

import shlex
from pathlib import Path


def shell_quoted(path: str | Path) -> str:
    """The path as it is typed into a shell, also as a value: f"ckpt={shell_quoted(folder)}"."""
    return shlex.quote(str(path))
