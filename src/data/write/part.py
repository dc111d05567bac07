"""One shard: written whole, under a temporary name until then, with a note of what is in it for a later resume."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.codecs.encode import Outcome
from data.codecs.formats import SUFFIXES
from data.codecs.statistics import Moments, summed
from data.codecs.targets import MEMBERS
from data.shards.archive import TarWriter, file_sha256, write_file
from data.shards.manifest import TARGET_VERSION, VERSION, Shard
from data.shards.rows import index_bytes
from data.sources.source import Source
from swinmim.outside import read_json


@dataclass
class Part:
    """What is known of a finished shard: its line of the manifest, sums of its pixels, files left out, and those of
    several pages, of which it holds the first."""

    shard: Shard
    pixels: int
    total: Sequence[int]
    squares: Sequence[int]
    bad: list[tuple[str, str]]
    paged: list[str] = field(default_factory=list)


def _note(dest: Path, number: int) -> Path:
    return dest / f"train-{number:06d}.part.json"


def finished_part(dest: Path, number: int, verify: bool) -> Part | None:
    """The shard that an interrupted run finished; None when it has to be written. `verify` reads it through."""
    try:
        fields = read_json(_note(dest, number), dict[str, Any])
        part = Part(**fields | {"shard": Shard(**fields["shard"]), "bad": [(n, r) for n, r in fields["bad"]]})
        file, index = dest / part.shard.name, dest / part.shard.index_name
        if file.stat().st_size != part.shard.bytes or file_sha256(index) != part.shard.index_sha256:
            return None
        return part if not verify or file_sha256(file) == part.shard.sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remove_notes(dest: Path) -> None:
    """Once the manifest is there."""
    for note in dest.glob("train-*.part.json"):
        note.unlink()


def write_part(
    source: Source,
    dest: Path,
    number: int,
    first: int,
    positions: Sequence[int],
    encoded: Iterator[Outcome],
) -> Part:
    """Write shard `number`, whose first sample has key `first`.

    `encoded` gives the items at `positions`, and may have more for the shards after it.
    """
    name = f"train-{number:06d}.tar"
    partial = dest / (name + ".partial")
    found: list[Moments] = []
    bad: list[tuple[str, str]] = []
    paged: list[str] = []
    rows: list[tuple[int, ...]] = []
    with TarWriter(partial) as tar:
        for place, position in enumerate(positions):
            item, done = source.items[position], next(encoded)
            if isinstance(done, str):
                bad.append((item.name, done))
            else:
                key = f"{first + place:09d}"
                offset = tar.add(f"{key}.{done.suffix}", done.data)
                row: tuple[int, ...] = (offset, len(done.data), item.label, SUFFIXES.index(done.suffix))
                if item.label >= 0:
                    tar.add(f"{key}.cls", str(item.label).encode())
                if source.target is not None:
                    row += (tar.add(f"{key}.{MEMBERS[source.target]}", done.target), len(done.target))
                rows.append(row)
                found.append(done.moments)
                paged += [item.name] * (done.pages > 1)
        sha256 = tar.close()
    partial.rename(dest / name)
    index = index_bytes(rows, TARGET_VERSION if source.target else VERSION)
    shard = Shard(name, len(rows), tar.size, sha256, hashlib.sha256(index).hexdigest())
    write_file(dest / shard.index_name, index)
    part = Part(shard, *summed(found), bad, paged)
    write_file(_note(dest, number), json.dumps(asdict(part)).encode())
    return part
