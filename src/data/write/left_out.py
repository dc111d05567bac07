"""Files of a source that are not in the set: how many for which reason, and how many there may be."""

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from data.shards.archive import write_file
from data.sources.source import is_lost
from swinmim.errors import DataError
from swinmim.outside import one_line

LeftOut = tuple[str, str]
"""A file, and why."""

NAME = "bad.jsonl"
_SHOWN = 8  # reasons in one message


class TooManyLeftOut(DataError):
    """More files than allowed are left out; what was written is kept."""


def list_left_out(dest: Path, files: Iterable[LeftOut]) -> None:
    write_file(dest / NAME, "".join(json.dumps({"source": n, "reason": r}) + "\n" for n, r in files).encode())


def reasons(files: Iterable[LeftOut]) -> str:
    """One line for each kind of reason, the most frequent first: how often, and one file."""
    kinds: dict[str, list[LeftOut]] = {}
    for name, reason in files:
        kinds.setdefault(re.sub(r"\d+", "#", reason), []).append((name, reason))
    lines = sorted(kinds.values(), key=len, reverse=True)
    shown = [f"{len(held):,} x {held[0][1]}: {held[0][0]}{', ...' if len(held) > 1 else ''}" for held in lines[:_SHOWN]]
    return "\n  ".join(
        [one_line(line) for line in shown] + [f"and {len(lines) - _SHOWN} other reasons"] * (len(lines) > _SHOWN)
    )


@dataclass(frozen=True)
class Allowance:
    """How many files may be left out of a set.

    skipped: those that are no items. Documents beside images are never missed.
    items: how many there are.
    ratio: share of all files that may be missed.
    setting: what a user writes before another ratio.
    dest: where all that are left out are listed.
    """

    skipped: Sequence[LeftOut]
    items: int
    ratio: float
    setting: str
    dest: Path

    @cached_property
    def _lost(self) -> list[LeftOut]:
        """Those of `skipped` that are missed; there may be many, and each shard is followed by a check."""
        return [entry for entry in self.skipped if is_lost(*entry)]

    def check(self, bad: Sequence[LeftOut], *, whole: bool) -> None:
        """
        Args:
            bad: items that could not be read.
            whole: all items were tried.

        Raises:
            TooManyLeftOut: with a count for each reason, and a ratio that will do.
        """
        files, missed = self.items + len(self._lost), len(self._lost) + len(bad)
        none_left = whole and len(bad) == self.items  # which no ratio helps
        if none_left or missed <= self.ratio * files + 1e-9:
            return
        list_left_out(self.dest, sorted([*self.skipped, *bad]))
        enough = math.ceil(1000 * missed / files) / 1000 if whole else 1
        raise TooManyLeftOut(
            f"At most {100 * self.ratio:g}% of the files may be unusable, got {missed:,} of {files:,}"
            f"{'' if whole else ' so far'}:\n  {reasons([*self._lost, *bad])}\nAll are listed in {self.dest / NAME}."
            f" Mend them, or go on without them: {self.setting}{enough:g} (what is done is kept)."
        )
