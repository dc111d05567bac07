"""Columns of numbers in a list, made into the values of each image."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data.codecs.targets import encode_target
from swinmim.errors import DataError
from swinmim.outside import one_line

_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_MOST = float(np.finfo(np.float32).max)


def value_targets(
    rows: Sequence[Mapping[str, Any]], lines: Sequence[int], columns: Sequence[str], where: str, *, strict: bool
) -> tuple[tuple[str, ...], list[str], list[str]]:
    """Names of the columns that hold a number in every row, the target of each row, and what to say of the others.

    Args:
        rows: of the list.
        lines: where each stands in it.
        columns: that may hold numbers.
        where: the list, for errors.
        strict: numbers are asked for, and a column that has them in some rows only is a mistake; otherwise it is
            left out, as one without any number always is.

    Raises:
        DataError: `strict`, and a column has a number in some rows only, or no column has any.
    """
    found: dict[str, list[float]] = {}
    notes, without = [], []
    for name in columns:
        numbers = [_number(row.get(name)) for row in rows]
        held = [number for number in numbers if number is not None]
        if len(held) == len(rows):
            found[name] = held
        elif not held:
            without.append(name)
        else:
            gap = numbers.index(None)
            text = (
                f"column {one_line(name)} has {_shown(rows[gap].get(name))} in line {lines[gap]}, and a number in"
                f" {len(held):,} of {len(rows):,} rows"
            )
            if strict:
                raise DataError(f"Values are numbers in every row; in {where} {text}. Fill it, or drop the column.")
            notes.append(f"warning: {text}: left out")
    if strict and not found:
        raise DataError(
            f"Values need a column of numbers beside path; {where} has {', '.join(map(one_line, without)) or 'none'}"
            + (", without any number." if without else ".")
        )
    if without and found:
        notes.append(f"{', '.join(map(one_line, without))} left out: no numbers")
    if found:
        notes.insert(0, ", ".join(map(one_line, found)))
    table = np.array(list(found.values()), np.float64).T.astype(np.float32)
    return tuple(found), [encode_target("value", row, len(found)).decode() for row in table], notes


def _number(value: object) -> float | None:
    """A finite number that 32 bits hold, written as people and spreadsheets write it; None for all else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return None
    try:
        number = float(value)
    except OverflowError:  # a whole number of JSON has any length
        return None
    return number if abs(number) <= _MOST else None


def _shown(value: object) -> str:
    empty = value is None or value != value or (isinstance(value, str) and not value.strip())
    return "an empty cell" if empty else one_line(f"{value!r:.60}")
