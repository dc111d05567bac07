"""What the rest of the program asks of a set of samples. Nobody asks which class a set is."""

from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from data.codecs.bands import Bits
from data.codecs.targets import TargetKind
from data.order.hashing import Ints
from data.shards.manifest import Shard
from swinmim.outside import one_line


class Record(NamedTuple):
    """One sample as it lies in the tar; `target` is the member beside its image, empty where the set has none."""

    key: str
    data: bytes
    suffix: str
    label: int
    shard: str
    target: bytes = b""

    @property
    def name(self) -> str:
        """How messages name it: "shard: key.suffix"."""
        return one_line(f"{self.shard}: {self.key}.{self.suffix}")


class BatchOrder(Protocol):
    """Which samples make up which global batch; a pure function of (epoch, step)."""

    @property
    def counts(self) -> list[int] | None:
        """Samples of each part of a mixture in every global batch; None for one set."""

    def batch(self, epoch: int, step: int) -> Ints:
        """Global batch `step` of an epoch: int64 (global_batch,), positions in the samples that take part."""
        ...


def larger_than_set(global_batch: int, images: int, path: Path) -> str | None:
    """What to say where a global batch takes more than a whole set; else None."""
    if global_batch <= images:
        return None
    return f"A global batch must not be larger than the training set, got {global_batch} for {images} images in {path}."


class SampleSet(Protocol):
    """A set whose samples are read by index. Safe to send to a worker process.

    path: its directory.
    classes: class names in label order, or what its targets count; empty when there is nothing of the kind.
    channels: of its images.
    bits: per value, 8 or 16; the largest stored value stands for 1.
    mean, std: per channel, in 0..1 units, over the training pixels.
    fingerprint: changes with the content.
    fork_safe: loader processes may be forked while the set is open.
    streams: True in a `StreamSet`, which has all of the above and is only read from front to back.
    shards: the lines of its manifests, in the order of the samples.
    target: what lies beside each image; None where nothing does. Every sample of a set has its target, or none has.
    ahead_bytes: how much may be prepared before it is read; 0 where that would gain nothing.
    """

    path: Path
    classes: tuple[str, ...]
    channels: int
    bits: Bits
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str
    fork_safe: bool
    streams: Literal[False]
    shards: tuple[Shard, ...]
    target: TargetKind | None
    ahead_bytes: int

    def __len__(self) -> int: ...

    def read(self, index: int) -> Record:
        """Sample `index`.

        Raises:
            IndexError: there is no such sample.
            DataError: the shard ended early or holds something else at this place.
        """
        ...

    def read_target(self, index: int) -> bytes:
        """What lies beside an image, in a set with targets, without the image; raises DataError as `read`."""
        ...

    def sizes_of(self, indices: Ints) -> Ints:
        """How many of these sorted sample indices lie in each shard; int64 (shards,)."""
        ...

    def shortage(self, indices: Ints, global_batch: int, lanes: int = 1) -> str | None:
        """Why these samples do not give a global batch; None where they do."""
        ...

    def order(self, indices: Ints, global_batch: int, batches: int, seed: int, *, lanes: int = 1) -> BatchOrder:
        """The order of a run; the same for any number of processes.

        Args:
            indices: sorted; the samples that take part.
            global_batch: samples per optimizer step over all processes.
            batches: global batches of an epoch.
            seed, lanes: see `EpochOrder`.

        Raises:
            ConfigError: lanes that do not divide the global batch, or a part of a mixture without a share of it.
            DataError: fewer samples than a global batch, or than its share in a mixture.
        """
        ...

    def prepare(self, indices: Ints) -> None:
        """Bring the shards of these samples near."""
        ...
