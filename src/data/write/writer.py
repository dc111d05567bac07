"""Write a shard set: python -m data.write SOURCE DESTINATION (see docs/data_making.md, or --help)

Everything is planned before the first file is read: a sorted listing, a seeded shuffle, and which sample goes into
which shard under which key. Several processes then encode the images, and this one writes them in the planned order,
so the result is the same, byte for byte, for any number of them. A shard appears under its name only when it is whole,
and the manifest only when all shards are there; a run that was interrupted goes on with the shards that are missing.
"""

import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import accumulate, chain
from pathlib import Path

from data.codecs.encode import Outcome
from data.codecs.statistics import IMAGENET_MEAN, IMAGENET_STD, statistics
from data.shards.manifest import Manifest
from data.sources.folder import read_folder
from data.sources.source import Source
from data.write.destination import PLAN, claimed
from data.write.duplicates import duplicates
from data.write.left_out import NAME, Allowance, LeftOut, list_left_out, reasons
from data.write.part import Part, finished_part, remove_notes, write_part
from data.write.plan import WriteOptions as WriteOptions
from data.write.plan import plan, plan_hash
from data.write.workers import encoded
from swinmim.errors import ConfigError, DataError
from swinmim.outside import one_line

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""


@dataclass(frozen=True)
class WriteReport:
    """What was written of a source: number of images and shards, (file, reason) of each skipped file, and the files of
    several pages, of which the first was taken."""

    source: Source
    found: int
    shards: int
    skipped: tuple[LeftOut, ...]
    paged: tuple[str, ...] = ()

    def __str__(self) -> str:
        folders, what = self.source.folders, "clip" if self.source.clips else "image"
        return (
            f"found {self.found:,} {what if self.found == 1 else f'{what}s'} in {folders:,}"
            f" {'folder' if folders == 1 else 'folders'}, {len(self.skipped):,} skipped, {labels_in_words(self.source)}"
        )

    def left_out(self, dest: Path) -> str:
        """How many were skipped for which reason, and where they are listed, and of how many only one page was taken;
        empty where none was."""
        told = f"\nskipped (all are listed in {dest / NAME}):\n  {reasons(self.skipped)}" if self.skipped else ""
        if self.paged:
            more = ", ..." if len(self.paged) > 1 else ""
            told += f"\nwarning: {len(self.paged):,} TIFFs have several pages, and only the first of each is read: "
            told += one_line(self.paged[0]) + more
        return told


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
) -> Generator[None, None, None]:
    """Write the shards that `parts` lacks, and add each to it."""
    missing = [number for number in range(len(shards)) if number not in parts]
    positions = [position for number in missing for position in shards[number]]
    *firsts, total = accumulate(map(len, shards), initial=0)

    def counted(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
        for done, outcome in enumerate(outcomes, total - len(positions) + 1):
            progress(done, total)
            yield outcome

    with closing(encoded(source, positions, options, options.workers)) as images:
        outcomes = counted(images)
        for number in missing:
            parts[number] = write_part(source, dest, number, firsts[number], shards[number], outcomes)
            yield


def write_shards(
    source: Source | str | Path,
    dest: str | Path,
    options: WriteOptions | None = None,
    progress: Progress | None = None,
    *,
    verify: bool = False,
    setting: str = "max_bad_ratio=",
) -> WriteReport:
    """Write all images of `source` as a shard set, or finish what an interrupted call began.

    Files that are not usable images are skipped and listed, with the reason, in `bad.jsonl` beside the shards.

    Args:
        source: a folder, or any `Source`.
        dest: a new or empty directory, or one that this call began earlier.
        verify: read finished shards through before they are taken over, not only their sizes.
        setting: what a user writes before another `max_bad_ratio`.

    Raises:
        TooManyLeftOut: more unusable files than allowed.
        DataError: no usable image; or `dest` holds something else.
        ConfigError: channels or bits that clips do not have.
    """
    options = options or WriteOptions()
    dest = Path(dest)
    if isinstance(source, str | Path):
        source = read_folder(source)
    if source.clips and (options.channels, options.bits) != (3, 8):
        raise ConfigError(f"Clips have 3 channels of 8 bits, got {options.channels} of {options.bits}.")
    with claimed(source, dest, options):
        same = duplicates(source) if options.dedup == "exact" else {}
        shards = plan(source.items, options, same)
        parts = {n: part for n in range(len(shards)) if (part := finished_part(dest, n, verify))}
        allowed = Allowance(source.skipped, sum(map(len, shards)), options.max_bad_ratio, setting, dest)
        writing = _write_missing(source, dest, shards, parts, options, progress or (lambda done, total: None))
        with closing(writing):
            for _ in chain([None] if parts else [], writing):
                bad = [entry for part in parts.values() for entry in part.bad]
                allowed.check(bad, whole=len(parts) == len(shards))
        skipped = [*source.skipped, *((source.items[n].name, why) for n, why in same.items())]
        return _finish(source, dest, options, [parts[n] for n in range(len(shards))], skipped)


def _finish(
    source: Source, dest: Path, options: WriteOptions, parts: Sequence[Part], skipped: Sequence[LeftOut]
) -> WriteReport:
    """Write bad.jsonl and the manifest."""
    bad = sorted(entry for part in parts for entry in part.bad)
    paged = sorted(name for part in parts for name in part.paged)
    samples = sum(part.shard.samples for part in parts)
    report = WriteReport(source, samples, len(parts), tuple(sorted([*skipped, *bad])), tuple(paged))
    list_left_out(dest, report.skipped)
    found = statistics(((part.pixels, part.total, part.squares) for part in parts), options.bits)
    if source.clips and report.found:
        found = IMAGENET_MEAN, IMAGENET_STD  # no frame has been decoded
    if found is None:
        raise DataError(
            f"No usable {'clip' if source.clips else 'image'} among {len(source.items)} files:\n  {reasons(bad)}"
        )
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
