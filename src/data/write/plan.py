"""What will be written: which image goes into which shard under which key, decided before the first file is read."""

import hashlib
import json
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from data.codecs.encode import EncodeOptions
from data.order.hashing import permutation
from data.sources.source import Item, Source


@dataclass(frozen=True)
class WriteOptions(EncodeOptions):
    """Options of `write_shards`, with those of `EncodeOptions`.

    seed: of the shuffle.
    shard_samples, shard_bytes: a shard is closed before it passes either; bytes are counted in the source files.
    dedup: "exact" leaves out files that are byte for byte equal to an earlier one.
    limit: write so many images, the first of the shuffle; None for all.
    max_bad_ratio: share of unusable files beyond which writing fails. Does not change the result.
    workers: processes that encode; 0 for one per core where that pays. Does not change the result.
    """

    seed: int = 0
    shard_samples: int = 2500
    shard_bytes: int = 256_000_000
    dedup: Literal["none", "exact"] = "none"
    limit: int | None = None
    max_bad_ratio: float = 1.0
    workers: int = 0

    def rules(self) -> dict[str, bool]:
        return super().rules() | {
            f"shard_samples must be at least 1, got {self.shard_samples}": self.shard_samples >= 1,
            f"shard_bytes must be at least 1, got {self.shard_bytes}": self.shard_bytes >= 1,
            f"limit must be at least 1, got {self.limit}": self.limit is None or self.limit >= 1,
            f"workers must be at least 0, got {self.workers}": self.workers >= 0,
            f"max_bad_ratio must lie between 0 and 1, got {self.max_bad_ratio}": 0 <= self.max_bad_ratio <= 1,
        }

    def recorded(self) -> dict[str, Any]:
        """What changes the result, as JSON gives it back."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("workers", "max_bad_ratio")}
        return kept | {"value_range": list(self.value_range)}


def plan(items: Sequence[Item], options: WriteOptions, left_out: Container[int] = ()) -> list[list[int]]:
    """Shuffle the items and deal them to shards: positions in writing order. Those in `left_out` are not written."""
    order = [n for n in permutation(len(items), "write", options.seed).tolist() if n not in left_out]
    return dealt(items, order[: options.limit], options.shard_samples, options.shard_bytes)


def dealt(items: Sequence[Item], positions: Sequence[int], most: int, most_bytes: int) -> list[list[int]]:
    """The positions in groups; each is closed before it passes so many items or, if it has any, so many bytes."""
    groups: list[list[int]] = []
    held = 0
    for position in positions:
        size = items[position].size
        if not groups or len(groups[-1]) == most or held + size > most_bytes:
            groups.append([])
            held = 0
        groups[-1].append(position)
        held += size
    return groups


def plan_hash(source: Source, options: WriteOptions, *, times: bool = False) -> str:
    """sha256 of all that decides the result except the files' contents; `times` adds when they were changed."""
    kind = [source.target] if source.target else []
    clips = ["clips"] * source.clips
    text = hashlib.sha256(json.dumps([options.recorded(), source.classes, *kind, *clips]).encode())
    for item in source.items:
        fields = [item.name, item.label, item.size, item.mtime_ns if times else 0, *([item.target] if kind else [])]
        text.update(json.dumps(fields).encode())
    return text.hexdigest()
