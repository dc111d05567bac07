"""Paths as people type them, and as commands show them."""

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

KEYS = ("data.path", "data.val_path", "data.cache_dir", "output_dir", "ckpt", "resume")
"""Settings that are paths (or URLs, or a word such as auto)."""


def shell_quoted(path: str | Path) -> str:
    """The path as it is typed into a shell, also as a value: f"ckpt={shell_quoted(folder)}"."""
    return shlex.quote(str(path))


def literal_paths(arguments: Sequence[str]) -> list[str]:
    """A command line whose paths are what was typed.

    Hydra reads spaces, commas, brackets, "=" and all that is not ASCII by a grammar of its own, and no shell expands a
    "~" behind "=". In a sweep (-m) commas still divide, and functions like glob() are Hydra's.
    """
    sweep = not {"-m", "--multirun"}.isdisjoint(arguments)
    return [_literal(argument, sweep) for argument in arguments]


def _literal(argument: str, sweep: bool) -> str:
    key, _, value = argument.partition("=")
    if key not in KEYS or value == "null":
        return argument
    parts = value.split(",") if sweep else [value]
    if sweep and (re.fullmatch(r"\w+\(.*\)", value) or any(part.startswith(("'", '"')) for part in parts)):
        return argument
    return f"{key}={','.join(map(_quoted, parts))}"


def _quoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return value  # for Hydra, by someone who knows it
    text = os.path.expanduser(value)
    if os.path.exists(text):
        text = text.replace("${", r"\${")  # a name, no reference to another setting
    return "'" + re.sub(r"(\\+)$", r"\1\1", re.sub(r"(\\*)'", r"\1\1\\'", text)) + "'"
