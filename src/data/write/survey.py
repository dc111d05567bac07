"""Look into a shard set: check every byte of it, describe it, draw some of its images."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data.codecs.bands import Pixels
from data.codecs.decode import MAX_PIXELS, DecodeError, decode
from data.codecs.encode import check_clip
from data.codecs.targets import checked_target, decode_target
from data.order.hashing import permutation
from data.shards.archive import file_sha256
from data.shards.local import ShardSet
from data.shards.manifest import read_manifest
from swinmim.errors import DataError


def verify(
    path: str | Path,
    *,
    images: bool = False,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Compare the sha256 of every shard with the manifest; with `images`, decode every image and target too.

    `max_pixels` is the limit of an image; what a manifest says of it is not relied upon, as it is others' data.
    `progress` is called with (steps done, steps in all). Returns the problems, named; empty when the set is whole.
    Raises DataError where there is no readable manifest.
    """
    path = Path(path)
    _, manifest = read_manifest(path)
    problems: list[str] = []
    shards = manifest.shards
    steps = len(shards) + (sum(shard.samples for shard in shards) if images else 0)
    for number, shard in enumerate(shards):
        for name, expected in ((shard.name, shard.sha256), (shard.index_name, shard.index_sha256)):
            try:
                if file_sha256(path / name) != expected:
                    problems.append(f"{name}: changed since it was written")
            except OSError as error:
                problems.append(f"{name}: {error.strerror}")
        if progress is not None:
            progress(number + 1, steps)
    if images and not problems:
        opened = ShardSet.open(path)
        for index in range(len(opened)):
            record = opened.read(index)
            try:
                if opened.clips:
                    check_clip(record.data)
                else:
                    pixels = decode(record.data, opened.channels, bits=opened.bits, max_pixels=max_pixels)
                    if opened.target:
                        checked_target(opened.target, record.target, len(opened.classes), pixels.shape[:2])
            except DecodeError as error:
                problems.append(f"{record.shard}: {record.key}: {error}")
            if progress is not None:
                progress(len(shards) + index + 1, steps)
    return problems


_LOOKED_AT = 1000


def describe(shards: ShardSet) -> str:
    """A few lines of facts."""
    sizes = np.percentile(shards.file_sizes, [10, 50, 90]).astype(int) if len(shards) else np.zeros(3, int)
    per_shard = shards.shard_sizes
    lines = [
        f"{shards.path}",
        f"{'clips ' if shards.clips else 'images'}    {len(shards):,} in {len(per_shard):,} shards of"
        f" {min(per_shard):,} to {max(per_shard):,}",
        f"bytes     {sum(s.bytes for s in shards.shards):,}; an image {sizes[0]:,} / {sizes[1]:,} / {sizes[2]:,}"
        " (p10 / median / p90)",
        f"channels  {shards.channels} of {shards.bits} bits; mean {_numbers(shards.mean)}, std {_numbers(shards.std)}",
        f"manifest  sha256 {shards.fingerprint}",
    ]
    if shards.target:
        mean = f", {_labels_an_image(shards):.2f} an image" if shards.target == "labels" else ""
        lines.append(f"target    {shards.target} of {len(shards.classes)}{mean}")
    elif shards.classes:
        counts = np.bincount(shards.labels[shards.labels >= 0], minlength=len(shards.classes))
        lines.append(f"classes   {len(shards.classes)}, of {counts.min()} to {counts.max()} images")
    else:
        lines.append("classes   none")
    return "\n".join(lines)


def _labels_an_image(shards: ShardSet) -> float:
    """The mean over some, spread over the set."""
    looked = permutation(len(shards), "labels")[:_LOOKED_AT].tolist()
    try:
        held = [decode_target("labels", shards.read_target(index), len(shards.classes)).sum() for index in looked]
    except DecodeError:
        return math.nan  # `verify` names it
    return float(np.mean(held))


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def contact_sheet(
    shards: ShardSet, *, columns: int = 8, rows: int = 6, side: int = 128, bands: Sequence[int] | None = None
) -> Image.Image:
    """Some images, spread over the set, as one picture of tiles of `side` pixels.

    `bands` are the three channels, counted from 0, that become red, green and blue; None for the first three, or grey.
    Raises DataError for a band that the set does not have, and for a set of clips.
    """
    if shards.clips:
        raise DataError(f"A sheet shows images; {shards.path} holds clips.")
    chosen = list(bands) if bands is not None else [0, 1, 2] if shards.channels >= 3 else [0, 0, 0]
    if len(chosen) != 3 or not all(0 <= band < shards.channels for band in chosen):
        raise DataError(f"bands are three channels of 0 to {shards.channels - 1}, got {chosen}.")
    sheet = Image.new("RGB", (columns * side, rows * side), "white")
    for place, index in enumerate(permutation(len(shards), "sheet")[: columns * rows].tolist()):
        try:
            tile = _tile(decode(shards.read(index).data, shards.channels)[:, :, chosen], side)
        except DecodeError:
            tile = Image.new("RGB", (side, side), "red")
        top, left = divmod(place, columns)
        sheet.paste(tile, (left * side + (side - tile.width) // 2, top * side + (side - tile.height) // 2))
    return sheet


def _tile(pixels_HWC: Pixels, side: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels_HWC))
    factor = side / max(image.size)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST)
