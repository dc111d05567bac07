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
from itertools import accumulate
from pathlib import Path

from data.codecs.statistics import statistics
from data.shards.archive import write_file
from data.shards.manifest import Manifest
from data.sources.folder import read_folder
from data.sources.source import Source
from data.write.destination import PLAN, claimed
from data.write.duplicates import duplicates
from data.write.part import Part, finished_part, remove_notes, write_part
from data.write.plan import WriteOptions as WriteOptions
from data.write.plan import plan, plan_hash
from data.write.workers import Outcome, encoded
from swinmim.errors import DataError

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class WriteReport:
    """What was written of a source: number of images and shards, and (file, reason) of each skipped file."""

    source: Source
    found: int
    shards: int
    skipped: tuple[tuple[str, str], ...]

    def __str__(self) -> str:
        folders = self.source.folders
        return (
            f"found {self.found:,} {'image' if self.found == 1 else 'images'} in {folders:,}"
            f" {'folder' if folders == 1 else 'folders'}, {len(self.skipped):,} skipped, {labels_in_words(self.source)}"
        )


_COUNTED = {
    None: ("class", "classes"),
    "labels": ("label", "labels"),
    "value": ("value an image", "values an image"),
    "mask": ("class of pixels", "classes of pixels"),
    "boxes": ("class of boxes", "classes of boxes"),
}


def labels_in_words(source: Source) -> str:
    classes = len(source.classes)
    held = f"{classes:,} {_COUNTED[source.target][classes != 1]}" if classes else "no labels"
    return held + (f" ({'; '.join(source.notes)})" if source.notes else "")


def _write_missing(
    source: Source,
    dest: Path,
    shards: Sequence[Sequence[int]],
    parts: dict[int, Part],
    options: WriteOptions,
    progress: Progress,
) -> None:
    """Write the shards that `parts` lacks, and add them to it; raises DataError when too many images are bad."""
    missing = [number for number in range(len(shards)) if number not in parts]
    positions = [position for number in missing for position in shards[number]]
    *firsts, total = accumulate(map(len, shards), initial=0)
    bad = [entry for part in parts.values() for entry in part.bad]

    def judged(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        written = zip(positions, outcomes, strict=True)
        for done, (position, outcome) in enumerate(written, total - len(positions) + 1):
            if isinstance(outcome, str):
                bad.append((source.items[position].name, outcome))
            if len(bad) > options.max_bad_ratio * total:
                _list_bad(dest, bad)
                raise DataError(
                    f"At most {options.max_bad_ratio:.1%} of the images may be unusable (max_bad_ratio), got {len(bad)}"
                    f" of {total} so far; they are listed in {dest / 'bad.jsonl'}. The first:\n  {_first_of(bad)}\n"
                    "Mend them and start anew, or call again with a higher limit: the shards that are done are kept."
                )
            progress(done, total)
            yield outcome

    with closing(encoded(source, positions, options, options.workers)) as images:
        outcomes = judged(images)
        for number in missing:
            parts[number] = write_part(source, dest, number, firsts[number], shards[number], outcomes)


def _first_of(bad: Sequence[tuple[str, str]]) -> str:
    return "\n  ".join(f"{name}: {reason}" for name, reason in bad[:5])


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
        shards = plan(source.items, options, same)
        parts = {n: part for n in range(len(shards)) if (part := finished_part(dest, n, verify))}
        _write_missing(source, dest, shards, parts, options, progress or (lambda done, total: None))
        skipped = [*source.skipped, *((source.items[n].name, why) for n, why in same.items())]
        return _finish(source, dest, options, [parts[n] for n in range(len(shards))], skipped)


def _finish(
    source: Source, dest: Path, options: WriteOptions, parts: Sequence[Part], skipped: Sequence[tuple[str, str]]
) -> WriteReport:
    """Write bad.jsonl and the manifest."""
    bad = sorted(entry for part in parts for entry in part.bad)
    report = WriteReport(source, sum(part.shard.samples for part in parts), len(parts), tuple(sorted([*skipped, *bad])))
    _list_bad(dest, report.skipped)
    found = statistics(((part.pixels, part.total, part.squares) for part in parts), options.bits)
    if found is None:
        raise DataError(f"No usable image among {len(source.items)} files. The first reasons:\n  {_first_of(bad)}")
    Manifest(
        samples=report.found,
        channels=options.channels,
        bits=options.bits,
        value_range=source.stored.value_range if source.stored else options.value_range,
        mean=found[0],
        std=found[1],
        target=source.target,
        classes=source.classes,
        options=options.recorded(),
        plan=plan_hash(source, options),
        skipped=len(report.skipped),
        shards=tuple(part.shard for part in parts),
    ).write(dest)
    remove_notes(dest)
    (dest / PLAN).unlink()
    return report


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
