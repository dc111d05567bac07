"""The commands around shard sets: make, index, verify, info, leaks."""

import argparse
import errno
import sys
from collections.abc import Sequence
from typing import Any

from swinmim.errors import INTERRUPTED, DataError, UserError
from swinmim.outside import printable


def _number(text: str) -> int | None:
    return None if text == "none" else int(text)


def _add_make(parser: argparse.ArgumentParser) -> None:
    from data.codecs.targets import IGNORED
    from data.write.plan import WriteOptions

    defaults = WriteOptions(max_bad_ratio=0.01)
    parser.set_defaults(max_bad_ratio=defaults.max_bad_ratio)

    def add(name: str, text: str, theirs: str = "", **kind: Any) -> None:
        default = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", help=f"{text} (default {default}{theirs})", **kind)

    parser.add_argument("source", help="folder of images (first-level folders are classes, or images and masks), list"
                        " (.csv .tsv .jsonl .parquet: path and label, labels or mask), tar, folder of tars, or"
                        " hf-dataset:NAME@SPLIT")  # fmt: skip
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
    parser.add_argument(
        "--ignore-index",
        type=int,
        choices=range(256),
        metavar="VALUE",
        default=IGNORED,
        help=f"value in mask files without a class (default {IGNORED})",
    )
    parser.add_argument("--workers", type=int, help="processes that encode (default: one per core)")
    parser.add_argument(
        "--verify", action="store_true", default=False, help="when resuming, read finished shards through"
    )
    parser.add_argument("--dry-run", action="store_true", default=False, help="say what would be written")


def _parser() -> argparse.ArgumentParser:
    from data.codecs.targets import MEMBERS

    parser = argparse.ArgumentParser(prog="python -m data.write", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    made = "write a shard set (the default: SOURCE DEST is enough)"
    make = commands.add_parser("make", help=made, argument_default=argparse.SUPPRESS)  # WriteOptions has the defaults
    _add_make(make)
    index = commands.add_parser("index", help="make a directory of WebDataset tars addressable")
    index.add_argument("path")
    index.add_argument("--channels", type=int, default=3)
    index.add_argument("--bits", type=int, choices=(8, 16), default=8)
    index.add_argument("--classes", help="file with one class name a line, in label order")
    index.add_argument("--target", choices=(*MEMBERS, "none"), help="what lies beside each image (default: found out)")
    check = commands.add_parser("verify", help="compare every byte with the manifest")
    check.add_argument("path")
    check.add_argument("--images", action="store_true", help="decode every image too")
    check.add_argument("--max-pixels", type=int, help="of an image, as it was given when the set was written")
    info = commands.add_parser("info", help="describe a shard set")
    info.add_argument("path")
    info.add_argument("--sheet", metavar="PNG", help="draw some of its images into this file")
    info.add_argument("--bands", type=int, nargs=3, help="channels shown as red, green, blue")
    leak = commands.add_parser("leaks", help="find samples of one set in another")
    leak.add_argument("one")
    leak.add_argument("two")
    leak.add_argument("--pictures", action="store_true", help="also the same picture in another size or quality")
    return parser


def _complain(text: str) -> None:
    print(printable(text), file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] not in ("make", "index", "verify", "info", "leaks", "-h", "--help"):
        given.insert(0, "make")
    try:  # imports too: Ctrl-C may come at once
        parsed = _parser().parse_args(given)
        from data.write.commands import COMMANDS  # to be told how to call it, nobody waits for these libraries

        return COMMANDS[parsed.command](parsed)
    except UserError as error:
        _complain(f"error: {error}")
        return error.exit_code
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        where = f"{error.filename}: " if error.filename else ""
        fix = " The shards that are done are kept: make room and call again." if full else ""
        _complain(f"error: {where}{error.strerror or error}.{fix}")
        return DataError.exit_code
    except KeyboardInterrupt:
        _complain("interrupted; an unfinished set goes on when the same command is given again")
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
