"""What each command of `python -m data.write` does: given its parsed arguments, to its exit code."""

import argparse
import sys
from pathlib import Path
from typing import TextIO

from data.codecs.decode import MAX_PIXELS
from data.shards.local import ShardSet
from data.sources.find import find_source
from data.sources.source import Source
from data.write.destination import check_destination
from data.write.duplicates import duplicates, leaks
from data.write.index import index_tars
from data.write.plan import WriteOptions, plan
from data.write.survey import contact_sheet, describe, verify
from data.write.writer import labels_in_words, progress_bar, write_shards
from swinmim.errors import ConfigError
from swinmim.outside import one_line, printable

_SHOWN = 20


def _say(text: str, file: TextIO | None = None) -> None:
    print(printable(text), file=file)


def _make(given: argparse.Namespace) -> int:
    source = find_source(given.source, ignore_index=given.ignore_index)
    chosen = {name: getattr(given, name) for name in WriteOptions.__dataclass_fields__ if hasattr(given, name)}
    if source.stored is not None:
        if "value_range" in chosen:
            raise ConfigError(f"--value-range is for new images; {given.source} was scaled when it was written.")
        chosen = {"channels": source.stored.channels, "bits": source.stored.bits} | chosen
    options = WriteOptions(**chosen)
    if given.dry_run:
        return _say_plan(source, Path(given.dest), options)
    with progress_bar("writing") as progress:
        report = write_shards(source, given.dest, options, progress, verify=given.verify, setting="--max-bad-ratio ")
    _say(f"{report}\nwrote {report.shards} shard(s) to {given.dest}{report.left_out(Path(given.dest))}")
    return 0


def _say_plan(source: Source, dest: Path, options: WriteOptions) -> int:
    check_destination(source, dest, options)
    same = duplicates(source) if options.dedup == "exact" else {}
    shards = plan(source.items, options, same)
    sizes = [source.items[n].size for positions in shards for n in positions]
    size = f"{sum(sizes):,}" if any(sizes) else "an unknown number of"
    _say(
        f"would write {len(sizes):,} images ({size} bytes at the source, {labels_in_words(source)}) as {len(shards)}"
        f" shard(s); {len(source.skipped) + len(same)} other files would be skipped"
    )
    return 0


def _index(given: argparse.Namespace) -> int:
    classes = Path(given.classes).read_text().removesuffix("\n").split("\n") if given.classes else None
    report = index_tars(given.path, channels=given.channels, bits=given.bits, classes=classes, target=given.target)
    _say(f"indexed {report.samples:,} samples" + (f" with {report.target}" if report.target else ""))
    for reason, count in report.ignored.items():
        if count:
            _say(f"left out {count:,} {reason}")
    for line in report.warnings[:_SHOWN]:
        _say(one_line(f"warning: {line}"), file=sys.stderr)
    return 0


def _verify(given: argparse.Namespace) -> int:
    with progress_bar("verifying") as progress:
        problems = verify(given.path, images=given.images, max_pixels=given.max_pixels or MAX_PIXELS, progress=progress)
    _say("\n".join(map(one_line, problems)) or f"{given.path} is whole")
    return 3 if problems else 0


def _info(given: argparse.Namespace) -> int:
    shards = ShardSet.open(given.path)
    _say(describe(shards))
    if given.sheet:
        sheet = contact_sheet(shards, bands=given.bands)
        try:
            sheet.save(given.sheet)
        except ValueError as error:
            raise ConfigError(f"The name of a sheet ends in .png or .jpg, got {given.sheet}.") from error
        _say(f"sheet     {given.sheet}")
    return 0


def _leaks(given: argparse.Namespace) -> int:
    pairs = leaks(ShardSet.open(given.one), ShardSet.open(given.two), pictures=given.pictures)
    for one, two in pairs[:_SHOWN]:
        _say(one_line(f"{one} = {two}"))
    found = len({one for one, _ in pairs})
    _say(f"{found:,} images of {given.one} are in {given.two} too ({len(pairs):,} pairs)")
    return 3 if pairs else 0


COMMANDS = {"make": _make, "index": _index, "verify": _verify, "info": _info, "leaks": _leaks}
"""By name. Each prints what it found and returns the exit code of the program."""
