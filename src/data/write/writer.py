"""Write a shard set: python -m data.write SOURCE DESTINATION (see docs/data_making.md, or --help)

Everything is planned before the first file is read: a sorted listing, a seeded shuffle, and which sample goes into
which shard under which key. Several processes then encode the images, and this one writes them in the planned order,
so the result is the same, byte for byte, for any number of them. A shard appears under its name only when it is whole,
and the manifest only when all shards are there; a run that was interrupted goes on with the shards that are missing.
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from data.codecs.statistics import statistics
from data.codecs.targets import TargetKind
from data.shards.archive import write_file
from data.shards.manifest import Manifest
from data.sources.folder import read_folder
from data.sources.source import Source
from data.write.destination import PLAN, claimed
from data.write.duplicates import duplicates
from data.write.part import Part, finished_part, remove_notes, write_part
from data.write.plan import Plan, WriteOptions, plan, plan_hash
from data.write.workers import Outcome, encoded
from swinmim.errors import DataError

__all__ = ["Progress", "Source", "WriteOptions", "WriteReport", "plan", "progress_bar", "write_shards"]

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class WriteReport:
    """What was written: images, the folders they lay in, (file, reason) of each skipped file, number of shards,
    number of classes, what the source says about labels, and the kind of its targets."""

    found: int
    folders: int
    skipped: tuple[tuple[str, str], ...]
    shards: int
    classes: int
    notes: tuple[str, ...]
    target: TargetKind | None = None

    def __str__(self) -> str:
        images, folders = ("image" if self.found == 1 else "images"), ("folder" if self.folders == 1 else "folders")
        return (
            f"found {self.found:,} {images} in {self.folders:,} {folders}, {len(self.skipped):,} skipped,"
            f" {labels_in_words(self.classes, self.notes, self.target)}"
        )


_COUNTED = {
    None: ("class", "classes"),
    "labels": ("label", "labels"),
    "value": ("value an image", "values an image"),
    "mask": ("class of pixels", "classes of pixels"),
    "boxes": ("class of boxes", "classes of boxes"),
}


def labels_in_words(classes: int, notes: Sequence[str], target: TargetKind | None) -> str:
    held = f"{classes:,} {_COUNTED[target][classes != 1]}" if classes else "no labels"
    return held + (f" ({'; '.join(notes)})" if notes else "")


def _write_missing(
    source: Source, dest: Path, plan: Plan, parts: dict[int, Part], options: WriteOptions, progress: Progress
) -> None:
    """Write the shards that `parts` lacks, and add them to it."""
    missing = [number for number in range(len(plan.shards)) if number not in parts]
    positions = [position for number in missing for position in plan.shards[number]]
    count = plan.images - len(positions)

    def tick() -> None:
        nonlocal count
        count += 1
        progress(count, plan.images)

    bad = [entry for part in parts.values() for entry in part.bad]
    with closing(encoded(source, positions, options, options.workers)) as images:
        judged = _judged(source, dest, plan, positions, images, bad, options)
        for n in missing:
            parts[n] = write_part(source, dest, n, plan.firsts[n], plan.shards[n], options.channels, judged, tick)


def _judged(
    source: Source,
    dest: Path,
    plan: Plan,
    positions: Sequence[int],
    images: Iterator[Outcome],
    bad: list[tuple[str, str]],
    options: WriteOptions,
) -> Iterator[Outcome]:
    """The images, until too many of them are bad, with those that `bad` lists from before."""
    _judge(bad, plan, dest, options)
    for position, outcome in zip(positions, images, strict=True):
        if isinstance(outcome, str):
            bad.append((source.items[position].name, outcome))
            _judge(bad, plan, dest, options)
        yield outcome


def _judge(bad: list[tuple[str, str]], plan: Plan, dest: Path, options: WriteOptions) -> None:
    if len(bad) <= options.max_bad_ratio * plan.images:
        return
    _list_bad(dest, bad)
    reasons = "\n  ".join(f"{name}: {reason}" for name, reason in bad[:5])
    raise DataError(
        f"At most {options.max_bad_ratio:.1%} of the images may be unusable (max_bad_ratio), got {len(bad)} of"
        f" {plan.images} so far; they are listed in {dest / 'bad.jsonl'}. The first:\n  {reasons}\n"
        "Mend them and start anew, or call again with a higher limit: the shards that are done are kept."
    )


def _list_bad(dest: Path, bad: Iterable[tuple[str, str]]) -> None:
    write_file(dest / "bad.jsonl", "".join(json.dumps({"source": n, "reason": r}) + "\n" for n, r in bad).encode())


def write_shards(
    source: Source | str | Path,
    dest: str | Path,
    options: WriteOptions | None = None,
    progress: Progress | None = None,
    *,
    verify: bool = False,
) -> WriteReport:
    """Write all images of `source` as a shard set, or finish what an interrupted call began.

    Files that are not usable images are skipped and listed, with the reason, in `bad.jsonl` beside the shards.

    Args:
        source: a folder, or any `Source`.
        dest: a new or empty directory, or one that this call began earlier.
        options: see `WriteOptions`.
        progress: called with (images done, images in all).
        verify: read finished shards through before they are taken over, not only their sizes.

    Raises:
        DataError: no usable image, or too many unusable ones; or `dest` holds something else.
    """
    options = options or WriteOptions()
    dest = Path(dest)
    if isinstance(source, str | Path):
        source = read_folder(source)
    with claimed(source, dest, options):
        same = duplicates(source) if options.dedup == "exact" else {}
        planned = plan(source.items, options, frozenset(same))
        found = {n: finished_part(dest, n, verify) for n in range(len(planned.shards))}
        kept = {number: part for number, part in found.items() if part is not None}
        _write_missing(source, dest, planned, kept, options, progress or (lambda done, total: None))
        parts = [kept[number] for number in range(len(planned.shards))]
        return _finish(source, dest, options, parts, [(source.items[n].name, why) for n, why in same.items()])


def _finish(
    source: Source, dest: Path, options: WriteOptions, parts: list[Part], same: list[tuple[str, str]]
) -> WriteReport:
    """Write bad.jsonl and the manifest."""
    bad = sorted(entry for part in parts for entry in part.bad)
    skipped = tuple(sorted([*source.skipped, *same, *bad]))
    _list_bad(dest, skipped)
    samples = sum(part.shard.samples for part in parts)
    if samples == 0:
        reasons = "\n  ".join(f"{name}: {reason}" for name, reason in bad[:5])
        raise DataError(f"No usable image among {len(source.items)} files. The first reasons:\n  {reasons}")
    total, squares = ([sum(of) for of in zip(*sums, strict=True)] for sums in zip(*_sums(parts), strict=True))
    mean, std = statistics(sum(part.pixels for part in parts), total, squares, options.bits)
    Manifest(
        samples=samples,
        channels=options.channels,
        bits=options.bits,
        value_range=source.stored.value_range if source.stored else options.value_range,
        mean=tuple(mean),
        std=tuple(std),
        target=source.target,
        classes=source.classes,
        options=options.recorded(),
        plan=plan_hash(source, options),
        skipped=len(skipped),
        shards=tuple(part.shard for part in parts),
    ).write(dest)
    remove_notes(dest)
    (dest / PLAN).unlink()
    return WriteReport(samples, source.folders, skipped, len(parts), len(source.classes), source.notes, source.target)


def _sums(parts: list[Part]) -> list[tuple[list[int], list[int]]]:
    return [(part.total, part.squares) for part in parts]


@contextmanager
def progress_bar(label: str) -> Iterator[Progress]:
    """Images/s and the time left on stderr: a bar in a terminal, a line every 30 s elsewhere."""
    from tqdm import tqdm  # the library use of this module needs no bar

    live = sys.stderr.isatty()
    every = 0.1 if live else 30.0
    with tqdm(desc=label, unit=" images", mininterval=every, maxinterval=every, delay=0 if live else every) as bar:

        def progress(done: int, total: int) -> None:
            if bar.total is None:  # what an earlier call did is no merit of this one
                bar.initial = bar.n = bar.last_print_n = done - 1
            bar.total = total
            bar.update(done - bar.n)

        yield progress
