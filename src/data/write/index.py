"""Make any WebDataset tars addressable: an index file beside each, and a manifest. The tars stay as they are."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from data.codecs.bands import Bits, Pixels
from data.codecs.decode import MAX_BYTES, DecodeError, decode
from data.codecs.statistics import measure
from data.order.hashing import permutation
from data.shards.archive import Member, members, write_file
from data.shards.local import ShardSet
from data.shards.manifest import MANIFEST, Manifest, Shard, is_shard_name
from data.shards.rows import index_bytes, read_indices
from data.sources.source import is_hidden
from swinmim.errors import DataError

# Suffix in a tar to its number in the index.
_IMAGES = {"jpg": 0, "jpeg": 0, "png": 1, "webp": 2, "tif": 3, "tiff": 3, "npy": 4}


@dataclass
class IndexReport:
    """samples; how many members were left out, by reason; names that a WebDataset reader would misread."""

    samples: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


@dataclass
class _Sample:
    images: list[tuple[str, Member]] = field(default_factory=list)
    label: int = -1


def _label(text: bytes, name: str) -> int:
    try:
        number = int(text.decode())
    except ValueError as error:
        raise DataError(f"{name} should hold a class number, got {text[:20]!r}.") from error
    if not 0 <= number < 2**31:
        raise DataError(f"{name} should hold a class number from 0 on, got {number}.")
    return number


def _samples(file: BinaryIO, name: str, report: IndexReport) -> list[_Sample]:
    """The samples of a tar in the order of their images. As in WebDataset, a key ends at the first dot of a name."""
    samples: dict[str, _Sample] = {}
    seen: set[str] = set()
    for member in members(file, name):
        if member is None:
            report.ignored["links and special files"] += 1
            continue
        if is_hidden(member.name):
            report.ignored["hidden members"] += 1
            continue
        folder, _, base = member.name.rpartition("/")
        stem, dot, suffix = base.partition(".")
        key = f"{folder}/{stem}"
        suffix = suffix.lower()
        if f"{key}.{suffix}" in seen:
            raise DataError(
                f"{name} holds {key.lstrip('/')}.{suffix} twice (case aside). Remove or rename one of them."
            )
        seen.add(f"{key}.{suffix}")
        sample = samples.setdefault(key, _Sample())
        if suffix.rpartition(".")[2] in _IMAGES and dot:
            if member.size > MAX_BYTES:
                report.ignored[f"images of more than {MAX_BYTES >> 20} MB"] += 1
            else:
                sample.images.append((suffix, member))
        elif suffix == "cls":
            sample.label = _label(
                os.pread(file.fileno(), min(member.size, 64), member.offset), f"{name}: {member.name}"
            )
        else:
            report.ignored["members that are no image"] += 1
    return [part for key, sample in samples.items() for part in _single(sample, f"{name}: {key.lstrip('/')}", report)]


def _single(sample: _Sample, name: str, report: IndexReport) -> list[_Sample]:
    """One image per sample: the plainly named one; where all names have further dots, each is a sample of its own."""
    plain = [image for image in sample.images if "." not in image[0]]
    if len(plain) > 1:
        raise DataError(
            f"{name} has {len(plain)} images ({', '.join(s for s, _ in plain)}); which one is meant? Give the others"
            f" a name with one more dot (KEY.other.{plain[-1][0]}), or take them out."
        )
    if plain:
        report.ignored["further images of a sample"] += len(sample.images) - 1
        return [_Sample(plain, sample.label)]
    if not sample.images:
        report.ignored["samples without an image"] += 1
    elif len(sample.images) > 1:
        report.warnings.append(f"{name}: names with dots, which webdataset reads as one sample of {len(sample.images)}")
    return [_Sample([image], sample.label) for image in sample.images]


def index_tars(
    path: str | Path,
    *,
    channels: int = 3,
    bits: Bits = 8,
    classes: Sequence[str] | None = None,
    sampled: int = 1000,
) -> IndexReport:
    """Write index files and a manifest into a directory of WebDataset tars.

    Args:
        path: the directory; all its *.tar take part, in the order of their names.
        channels: of the images.
        bits: per value of a batch; 16 for tars of .npy and TIFF, whose values then count from 0 to 65535.
        classes: names in label order; None for the numbers.
        sampled: decode so many images, spread over the set, for the statistics.

    Raises:
        DataError: no tars, one whose name no manifest may hold, already a shard set, a damaged tar, the same member
            twice, labels beyond `classes` or all reason, class names that are blank or equal, or no readable image.
    """
    path = Path(path)
    if (path / MANIFEST).exists():
        raise DataError(f"{path} is already a shard set. Remove {MANIFEST} to index it again.")
    tars = sorted(path.glob("*.tar"))
    if not tars:
        raise DataError(f"{path} holds no .tar files to index.")
    if bad := [tar.name for tar in tars if not is_shard_name(tar.name)]:
        raise DataError(f"A tar's name must be short and printable, got {bad[0]!a}. Rename it.")
    if classes is not None and (twice := [c for c, n in Counter(classes).items() if n > 1 or not c.strip()]):
        raise DataError(f"Class names must differ and not be blank, got {', '.join(map(repr, twice[:5]))}; one a line.")
    report, shards, highest, unlabelled = IndexReport(), [], -1, 0
    for tar in tars:
        with tar.open("rb") as file:
            samples = _samples(file, str(tar), report)
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        images = [(s.images[0], s.label) for s in samples]
        index = index_bytes([(m.offset, m.size, label, _IMAGES[x.rpartition(".")[2]]) for (x, m), label in images])
        shard = Shard(tar.name, len(images), tar.stat().st_size, sha256, hashlib.sha256(index).hexdigest())
        write_file(path / shard.index_name, index)
        shards.append(shard)
        report.samples += len(images)
        highest = max([highest, *(label for _, label in images)])
        unlabelled += sum(label < 0 for _, label in images)
    if report.samples == 0:
        raise DataError(f"The {len(tars)} tars of {path} hold no image.")
    if classes is not None and highest >= len(classes):
        raise DataError(f"The labels go up to {highest}, and {len(classes)} class names are given.")
    if classes is None and highest > 10 * report.samples + 1000:
        raise DataError(
            f"Labels must be class numbers counted from 0, got {highest} among {report.samples} samples. Number the"
            " classes anew, or name them all with --classes."
        )
    if 0 < unlabelled < report.samples:
        report.warnings.append(f"{unlabelled} of {report.samples} samples have no label")
    names = list(classes) if classes is not None else [str(number) for number in range(highest + 1)]
    manifest = Manifest(
        samples=report.samples,
        channels=channels,
        bits=bits,
        mean=(0.5,) * channels,
        std=(0.5,) * channels,
        classes=tuple(names),
        options={"indexed": True},
        skipped=0,
        shards=tuple(shards),
    )
    opened = ShardSet(path.absolute(), manifest, "", read_indices(path, manifest))
    mean, std = _statistics(opened, sampled)
    opened.close()
    replace(manifest, mean=tuple(mean), std=tuple(std)).write(path)
    return report


def _statistics(shards: ShardSet, sampled: int) -> tuple[list[float], list[float]]:
    bad = []

    def readable() -> Iterator[Pixels]:
        for index in permutation(len(shards), "statistics")[:sampled].tolist():
            record = shards.read(index)
            try:
                yield decode(record.data, shards.channels, bits=shards.bits)
            except DecodeError as error:
                bad.append(f"{record.shard}: {record.key}: {error}")

    found = measure(readable(), shards.channels, shards.bits)
    if found is None:
        raise DataError(
            f"None of {len(bad)} images of {shards.path} can be decoded with {shards.channels} channels. The first:\n  "
            + "\n  ".join(bad[:5])
        )
    return found
