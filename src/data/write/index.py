"""Make any WebDataset tars addressable: an index file beside each, and a manifest. The tars stay as they are."""

import hashlib
import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal

from data.codecs.bands import Bits, Pixels
from data.codecs.decode import MAX_BYTES, DecodeError, decode
from data.codecs.formats import SUFFIX_NUMBERS
from data.codecs.statistics import moments, statistics
from data.codecs.targets import MEMBERS, TargetKind
from data.order.hashing import permutation
from data.shards.archive import Member, file_sha256, members, write_file
from data.shards.local import ShardSet
from data.shards.manifest import MANIFEST, TARGET_VERSION, VERSION, Manifest, Shard, is_shard_name
from data.shards.rows import index_bytes, read_indices
from data.sources.keys import Keyed, by_key
from data.sources.source import is_hidden
from data.sources.tar_targets import class_names, read_target, shared_kind
from swinmim.errors import DataError
from swinmim.outside import one_line

_SAMPLED = 1000  # images that are decoded for the statistics


@dataclass
class IndexReport:
    """samples, and the kind of their targets; how many members were left out, by reason; names that a WebDataset reader
    would misread."""

    samples: int = 0
    target: TargetKind | None = None
    ignored: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def _label(text: bytes, name: str) -> int:
    try:
        number = int(text.decode())
    except ValueError as error:
        raise DataError(f"{name} should hold a class number, got {text[:20]!r}.") from error
    if not 0 <= number < 2**31:
        raise DataError(f"{name} should hold a class number from 0 on, got {number}.")
    return number


def _suffix(member: Member) -> int | None:
    """The number of an image's suffix in the index."""
    return SUFFIX_NUMBERS.get(os.path.splitext(member.name)[1][1:].lower())


def _keyed(tar: Path, parts: Collection[str], report: IndexReport) -> list[Keyed]:
    """The samples of a tar."""

    def visible(file: BinaryIO) -> Iterator[Member]:
        for member in members(file, str(tar)):
            if member is None:
                report.ignored["links and special files"] += 1
            elif is_hidden(member.name):
                report.ignored["hidden members"] += 1
            else:
                yield member

    with tar.open("rb") as file:
        return by_key(visible(file), lambda m: _suffix(m) is not None and m.size <= MAX_BYTES, parts, str(tar))


def _rows(
    tar: Path, kind: TargetKind | None, classes: Sequence[str] | None, report: IndexReport
) -> tuple[list[tuple[int, ...]], list[int]]:
    """The rows of a tar's index, one for each image, and how many classes the labels or the target of each need."""
    part = MEMBERS[kind] if kind else "cls"
    rows: list[tuple[int, ...]] = []
    counts = []
    with tar.open("rb") as file:
        for sample in _keyed(tar, (part,), report):
            chosen, held = sample.chosen(str(tar)), sample.parts.get(part)
            for other in sample.others:
                large = _suffix(other) is not None
                report.ignored[
                    f"images of more than {MAX_BYTES >> 20} MB" if large else "members that are no image"
                ] += 1
            report.ignored["further images of a sample"] += len(sample.images) - len(chosen)
            if not chosen:
                report.ignored["samples without an image"] += 1
                continue
            if len(chosen) > 1:
                report.warnings.append(
                    f"{tar}: {sample.key}: names with dots, which webdataset reads as one sample of {len(chosen)}"
                )
            label, place = -1, tuple[int, ...]()
            if kind is None:
                if held is not None:
                    label = _label(
                        os.pread(file.fileno(), min(held.size, 64), held.offset), f"{tar}: {one_line(held.name)}"
                    )
                counts += [label + 1] * len(chosen)
            elif held is not None:
                counts.append(read_target(file, held, kind, classes, str(tar)))
                place = (held.offset, held.size)
            else:
                raise DataError(f"{tar}: {one_line(sample.key)} has no {part}. All samples have one, or none has.")
            rows += [(m.offset, m.size, label, _suffix(m) or 0, *place) for m in chosen]
    return rows, counts


def index_tars(
    path: str | Path,
    *,
    channels: int = 3,
    bits: Bits = 8,
    classes: Sequence[str] | None = None,
    target: TargetKind | Literal["none"] | None = None,
) -> IndexReport:
    """Write index files and a manifest into a directory of WebDataset tars.

    Args:
        path: the directory; all its *.tar take part, in the order of their names.
        channels: of the images.
        bits: per value of a batch; 16 for tars of .npy and TIFF, whose values then count from 0 to 65535.
        classes: names in label order; None for the numbers.
        target: kind of the targets; None for the one that all samples have, if any.

    Raises:
        DataError: no channels, no tars, one whose name no manifest may hold, already a shard set, a damaged tar, the
            same member twice, labels beyond `classes` or all reason, class names that are blank or equal, targets of
            several kinds or malformed ones, or no readable image.
    """
    path = Path(path)
    if channels < 1:
        raise DataError(f"channels must be at least 1, got {channels}.")
    if (path / MANIFEST).exists():
        raise DataError(f"{path} is already a shard set. Remove {MANIFEST} to index it again.")
    tars = sorted(path.glob("*.tar"))
    if not tars:
        raise DataError(f"{path} holds no .tar files to index.")
    if odd := next((tar for tar in tars if not tar.is_file()), None):
        raise DataError(f"All tars are files, {odd} is none. Take it out.")
    if bad := [tar.name for tar in tars if not is_shard_name(tar.name)]:
        raise DataError(f"A tar's name must be short and printable, got {bad[0]!a}. Rename it.")
    if classes is not None and (twice := [c for c, n in Counter(classes).items() if n > 1 or not c.strip()]):
        raise DataError(f"Class names must differ and not be blank, got {', '.join(map(repr, twice[:5]))}; one a line.")
    report = IndexReport(target=target if target != "none" else None)
    if target is None:
        listed = (_keyed(tar, MEMBERS.values(), IndexReport()) for tar in tars)
        report.target, report.warnings = shared_kind(listed, str(path))
    kind = report.target
    shards, counts, unlabelled = [], set[int](), 0
    for tar in tars:
        rows, needed = _rows(tar, kind, classes, report)
        index = index_bytes(rows, TARGET_VERSION if kind else VERSION)
        shard = Shard(tar.name, len(rows), tar.stat().st_size, file_sha256(tar), hashlib.sha256(index).hexdigest())
        write_file(path / shard.index_name, index)
        shards.append(shard)
        report.samples += len(rows)
        counts.update(needed)
        unlabelled += needed.count(0) if kind is None else 0
    if report.samples == 0:
        raise DataError(f"The {len(tars)} tars of {path} hold no image.")
    names = class_names(counts, classes, report.samples, kind)
    if 0 < unlabelled < report.samples:
        report.warnings.append(f"{unlabelled} of {report.samples} samples have no label")
    manifest = Manifest(
        samples=report.samples,
        channels=channels,
        bits=bits,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        target=kind,
        classes=names,
        options={"indexed": True},
        skipped=0,
        shards=tuple(shards),
    )
    opened = ShardSet(path.absolute(), manifest, "", read_indices(path, manifest))
    mean, std = _statistics(opened)
    opened.close()
    replace(manifest, mean=mean, std=std).write(path)
    return report


def _statistics(shards: ShardSet) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of some images, spread over the set."""
    bad = []

    def readable() -> Iterator[Pixels]:
        for index in permutation(len(shards), "statistics")[:_SAMPLED].tolist():
            record = shards.read(index)
            try:
                yield decode(record.data, shards.channels, bits=shards.bits)
            except DecodeError as error:
                bad.append(one_line(f"{record.shard}: {record.key}: {error}"))

    found = statistics(map(moments, readable()), shards.bits)
    if found is None:
        raise DataError(
            f"None of {len(bad)} images of {shards.path} can be decoded with {shards.channels} channels. The first:\n  "
            + "\n  ".join(bad[:5])
        )
    return found
