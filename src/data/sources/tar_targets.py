"""Targets that lie in tars beside their images: which kind all samples have, and what it counts."""

import json
import os
from collections.abc import Collection, Iterable, Sequence
from typing import BinaryIO

from data.codecs.decode import MAX_BYTES, DecodeError
from data.codecs.targets import IGNORED, MEMBERS, TargetKind, decode_target
from data.shards.archive import Member
from data.sources.keys import Keyed
from swinmim.errors import DataError
from swinmim.outside import one_line
from swinmim.paths import shell_quoted


def shared_kind(tars: Iterable[Iterable[Keyed]], where: str) -> tuple[TargetKind | None, list[str]]:
    """The one kind of target that every sample with an image has, and a warning for each that only some have.

    Args:
        tars: the samples of each, with all `MEMBERS` among their parts.
        where: the tars lie, for errors.

    Raises:
        DataError: there are several.
    """
    shared, seen = set(MEMBERS), set[TargetKind]()
    for samples in tars:
        for sample in samples:
            if sample.images:
                held = {kind for kind, part in MEMBERS.items() if part in sample.parts}
                shared, seen = shared & held, seen | held
        if not shared:
            break
    kinds = [kind for kind in MEMBERS if kind in shared & seen]
    if len(kinds) > 1:
        raise DataError(
            f"A set has one kind of target; the samples of {where} have {' and '.join(kinds)}. Name the one that is"
            f" meant: python -m data.write index {shell_quoted(where)} --target {kinds[0]}"
        )
    some = [MEMBERS[kind] for kind in MEMBERS if kind in seen - shared]
    return next(iter(kinds), None), [f"only some samples have {part}, which is left out" for part in some]


def read_target(file: BinaryIO, member: Member, kind: TargetKind, classes: Sequence[str] | None, name: str) -> int:
    """Check a target in the tar that errors call `name`: how many classes it needs, or how many values it has.

    Raises:
        DataError: it is malformed, or counts more than `classes` where these are known.
    """
    try:
        if member.size > MAX_BYTES:
            raise DecodeError(f"{member.size} bytes exceed the limit of {MAX_BYTES}")
        data = os.pread(file.fileno(), member.size, member.offset)
        counted = len(classes) if classes is not None else _counted(kind, data)
        decode_target(kind, data, counted)
    except DecodeError as error:
        raise DataError(
            f"{name}: {one_line(member.name)} holds no {kind} ({error}). Mend it, or take it out."
        ) from error
    return counted


def _counted(kind: TargetKind, data: bytes) -> int:
    """How many classes a target needs, or how many values it has; any number where it is malformed."""
    if kind == "mask":
        mask = decode_target(kind, data, IGNORED + 1)
        return 1 + int(mask.astype(int).max(initial=-1, where=mask != IGNORED))
    try:
        held = json.loads(data)
        if kind == "value":
            return len(held)
        return 1 + max((n for n in (held["labels"] if kind == "boxes" else held) if type(n) is int), default=-1)
    except (ValueError, RecursionError, TypeError, KeyError):
        return 0  # which decoding names


def class_names(
    counts: Collection[int], classes: Sequence[str] | None, samples: int, kind: TargetKind | None
) -> tuple[str, ...]:
    """Names of what labels or targets count; where none are given, their numbers.

    Args:
        counts: how many classes each of so many samples needs, see `read_target`.
        classes: names, where they are known.
        kind: of the targets, None for one class number each.

    Raises:
        DataError: labels beyond `classes`, or beyond all reason; or images with different numbers of values.
    """
    most = max(counts, default=0)
    if kind == "value" and most != min(counts, default=0):
        raise DataError(f"Every image has as many values, got {min(counts)} for one and {most} for another.")
    if classes is not None:
        if most > len(classes):
            raise DataError(f"The labels go up to {most - 1}, and {len(classes)} class names are given.")
        return tuple(classes)
    if most > 10 * samples + 1001:
        raise DataError(
            f"Labels must be class numbers counted from 0, got {most - 1} among {samples} samples. Number the classes"
            " anew, or name them all with --classes."
        )
    return tuple(str(number) for number in range(most))
