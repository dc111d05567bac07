"""The commands around shard sets: make, index, verify, info, leaks."""

import argparse
import errno
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from data.codecs.targets import MEMBERS
from data.shards.local import ShardSet
from data.sources.find import find_source
from data.sources.source import Source
from data.write.destination import check_destination
from data.write.duplicates import duplicates, leaks
from data.write.index import index_tars
from data.write.plan import WriteOptions, plan
from data.write.survey import contact_sheet, describe, verify
from data.write.writer import labels_in_words, progress_bar, write_shards
from swinmim.errors import ConfigError, DataError, UserError
from swinmim.outside import one_line, printable

_SHOWN = 20
_DEFAULTS: dict[str, Any] = {"max_bad_ratio": 0.01}


def _say(text: str, file: TextIO | None = None) -> None:
    print(printable(text), file=file)


def _make(given: argparse.Namespace) -> int:
    source = find_source(given.source)
    chosen = {name: getattr(given, name) for name in WriteOptions.__dataclass_fields__ if hasattr(given, name)}
    if source.stored is not None:
        if "value_range" in chosen:
            raise ConfigError(f"--value-range is for new images; {given.source} was scaled when it was written.")
        chosen = {"channels": source.stored.channels, "bits": source.stored.bits} | chosen
    options = WriteOptions(**_DEFAULTS | chosen)
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
        problems = verify(given.path, images=given.images, progress=progress)
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


def _number(text: str) -> int | None:
    return None if text == "none" else int(text)


def _add_make(parser: argparse.ArgumentParser) -> None:
    defaults = WriteOptions(**_DEFAULTS)

    def add(name: str, text: str, theirs: str = "", **kind: Any) -> None:
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", help=f"{text} (default {default}{theirs})", **kind)

    parser.add_argument("source", help="folder of images (first-level folders are classes), list (.csv .tsv .jsonl"
                        " .parquet: path,label or labels), tar, folder of tars, or hf-dataset:NAME@SPLIT")  # fmt: skip
    parser.add_argument("dest", help="new directory for the shards, or an interrupted one")
    add("resize", "shorter side in pixels; none keeps originals", type=_number)
    add("quality", "JPEG quality of what is encoded anew", type=int)
    add("min-side", "refuse smaller images", type=int)
    add("max-pixels", "refuse larger images", type=int)
    bands = "3 colour, 1 grey, other numbers for .npy and TIFF of that many bands"
    depth = "stored per value; 16 takes .npy, TIFF and 16-bit PNG and keeps their depth"
    add("channels", bands, "; of shards, theirs", type=int)
    add("bits", depth, "; of shards, theirs", type=int, choices=(8, 16))
    add("value-range", "16-bit values that become 0 and 1", "; of shards, theirs",
        type=int, nargs=2, metavar=("LOW", "HIGH"))  # fmt: skip
    add("seed", "of the shuffle", type=int)
    add("shard-samples", "images per shard, at most", type=int)
    add("shard-bytes", "source bytes per shard, at most", type=int)
    parser.add_argument("--dedup", choices=("none", "exact"), help="leave out equal files")
    add("limit", "write so many images only", type=int)
    add("max-bad-ratio", "fail beyond this share of files that cannot be used", type=float)
    parser.add_argument("--workers", type=int, help="processes that encode (default: one per core)")
    parser.add_argument(
        "--verify", action="store_true", default=False, help="when resuming, read finished shards through"
    )
    parser.add_argument("--dry-run", action="store_true", default=False, help="say what would be written")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m data.write", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    made = "write a shard set (the default: SOURCE DEST is enough)"
    make = commands.add_parser("make", help=made, argument_default=argparse.SUPPRESS)  # WriteOptions has the defaults
    _add_make(make)
    make.set_defaults(run=_make)
    index = commands.add_parser("index", help="make a directory of WebDataset tars addressable")
    index.add_argument("path")
    index.add_argument("--channels", type=int, default=3)
    index.add_argument("--bits", type=int, choices=(8, 16), default=8)
    index.add_argument("--classes", help="file with one class name a line, in label order")
    index.add_argument("--target", choices=(*MEMBERS, "none"), help="what lies beside each image (default: found out)")
    index.set_defaults(run=_index)
    check = commands.add_parser("verify", help="compare every byte with the manifest")
    check.add_argument("path")
    check.add_argument("--images", action="store_true", help="decode every image too")
    check.set_defaults(run=_verify)
    info = commands.add_parser("info", help="describe a shard set")
    info.add_argument("path")
    info.add_argument("--sheet", metavar="PNG", help="draw some of its images into this file")
    info.add_argument("--bands", type=int, nargs=3, help="channels shown as red, green, blue")
    info.set_defaults(run=_info)
    leak = commands.add_parser("leaks", help="find samples of one set in another")
    leak.add_argument("one")
    leak.add_argument("two")
    leak.add_argument("--pictures", action="store_true", help="also the same picture in another size or quality")
    leak.set_defaults(run=_leaks)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    commands = ("make", "index", "verify", "info", "leaks", "-h", "--help")
    if given and given[0] not in commands:
        given.insert(0, "make")
    parsed = _parser().parse_args(given)
    try:
        return int(parsed.run(parsed))
    except UserError as error:
        _say(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = f"{error.filename}: " if error.filename else ""
        fix = " The shards that are done are kept: make room and call again." if full else ""
        _say(f"error: {where}{error.strerror or error}.{fix}", file=sys.stderr)
        return DataError.exit_code
    except KeyboardInterrupt:
        _say("interrupted; an unfinished set goes on when the same command is given again", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
