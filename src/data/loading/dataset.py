"""From places in the order to a batch of tensors. Runs in the loader's worker processes."""

import logging
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from data.codecs.bands import Pixels
from data.codecs.decode import DecodeError, decode
from data.codecs.targets import Boxes, Target, checked_target
from data.loading.batch import Batch, LoaderSettings
from data.loading.sampler import Place
from data.loading.views import Seen, View
from data.order.hashing import Ints, key, sample_seeds, words
from data.shards.set import Record, SampleSet

log = logging.getLogger(__name__)

_SUBSTITUTES = 12  # tries before a set counts as unreadable
_NEARBY = 4  # of them in the shard of the damaged image: another one may have to come from far away
_PATIENCE = 300  # seconds of its process's own time for one image


@contextmanager
def _decoding(name: str, limited: bool) -> Iterator[None]:
    """While a sample is decoded: any fault names it, and a loader process that hangs in it ends by SIGPROF.

    The kernel keeps the time, so it also ends C code that never gives the interpreter back; and only the time that the
    process computes, so a run may be suspended. Nothing waits in here: the bytes have been read before.
    """
    if limited:
        signal.setitimer(signal.ITIMER_PROF, _PATIENCE)
    try:
        yield
    except BaseException as error:
        error.add_note(f"The image is {name}.")
        raise
    finally:
        if limited:
            signal.setitimer(signal.ITIMER_PROF, 0)


def opened(data: bytes, shards: SampleSet, view: View, settings: LoaderSettings) -> Any:
    """The pixels of a sample, or what its view opens itself; raises DecodeError."""
    if hasattr(view, "open"):
        return view.open(data, settings.max_pixels)
    return decode(data, shards.channels, bits=shards.bits, max_pixels=settings.max_pixels, decoder=settings.decoder)


def still(data: bytes, shards: SampleSet, view: View, settings: LoaderSettings) -> Pixels:
    """A sample as it can be shown, (H, W, C); raises DecodeError."""
    found = opened(data, shards, view, settings)
    pixels: Pixels = found.still() if hasattr(found, "still") else found
    return pixels


class BatchDataset(Dataset[Batch]):
    """Reads, decodes and augments the samples of a micro-batch, straight into one tensor of 8 or 16 bits.

    Args:
        shards: the set.
        indices: samples that substitutes may come from.
        view: see `View`.
        settings: of which resolution, seed, decoder and max_pixels matter here.
        purpose: "train" or "eval"; keeps the seeds of the two apart.
    """

    def __init__(
        self, shards: SampleSet, indices: Ints, view: View, settings: LoaderSettings, purpose: Literal["train", "eval"]
    ) -> None:
        self.shards, self.indices, self.view, self.settings, self.purpose = shards, indices, view, settings, purpose
        self._shape = getattr(view, "shape", (*settings.resolution, shards.channels))
        self.native = getattr(view, "native", False)
        self._dtype = torch.uint8 if shards.bits == 8 else torch.uint16
        self.kind = shards.target if settings.targets else None
        self._named: set[int] = set()
        self.watch(0)

    def __len__(self) -> int:
        return len(self.indices)

    def watch(self, num_workers: int) -> None:
        """Prepare `being_read` for so many loader processes."""
        # Index + 1 of what each is reading, in shared memory, so that it outlives them.
        self._reading = torch.zeros(max(1, num_workers), dtype=torch.int64)
        self._reading.share_memory_()  # type: ignore[no-untyped-call]

    def being_read(self, workers: Iterable[int]) -> list[str]:
        """ "shard: key" of the samples that these workers are decoding now, or were when they died."""
        return [self.shards.read(int(self._reading[n]) - 1).name for n in workers if self._reading[n] > 0]

    def __getitems__(self, places: list[Place]) -> Batch:
        """The batch of these places; the stock DataLoader calls this with what the batch sampler yields."""
        image = torch.empty(0 if self.native else len(places), *self._shape, dtype=self._dtype)
        worker = get_worker_info()
        if worker is not None and not self.native:
            # Filled where the trainer will read it, instead of copied there later.
            image.share_memory_()  # type: ignore[no-untyped-call]
        positions = np.array([place.position for place in places])
        seeds = sample_seeds(self.settings.seed, places[0].epoch, positions, self.purpose)
        rows = image.numpy()  # as for `_reading`: an assignment through numpy takes a tenth of the time
        index, label, target, size, images = [], [], [], [], []
        for row, (place, seed) in enumerate(zip(places, seeds.tolist(), strict=True)):
            found = self._load(place.sample, seed, worker.id if worker is not None else None)
            if self.native:
                images.append(found.image)
            else:
                rows[row] = found.image
            size.append(found.size)
            index.append(found.sample)
            label.append(found.label)
            target.append(found.target)
        valid = torch.tensor([place.valid for place in places])
        substituted = valid & torch.tensor([found != place.sample for found, place in zip(index, places, strict=True)])
        batch: Batch = {
            "image": images if self.native else image,
            "seed": torch.from_numpy(seeds),
            "index": torch.tensor(index),
            "substituted": substituted,
            "label": torch.tensor(label),
            "valid": valid & ~substituted if self.purpose == "eval" else valid,
        }
        batch["size"] = torch.tensor(size)
        if self.kind is not None:
            batch["target"] = together(target)
        return batch

    def _load(self, planned: int, seed: int, worker: int | None) -> "_Loaded":
        """A sample, or its substitute, which depends on the sample and its seed only.

        The index is -1 and the image black when the substitutes are damaged too; the loader ends the run for it.
        """
        index, reading = planned, self._reading.numpy()
        for attempt in range(_SUBSTITUTES + 1):
            reading[worker or 0] = index + 1
            record = self.shards.read(index)
            try:
                with _decoding(record.name, worker is not None):
                    pixels, target = self._decode(record)
                    image, seen = self.view(pixels, target, seed)
            except DecodeError as error:
                self._warn(index, f"{record.name}: {error}")
            else:
                reading[worker or 0] = 0
                return _Loaded(image, pixels.shape[:2], seen, index, record.label)
            draw = int(words(key("substitute", seed), np.array([attempt]))[0])
            near = self._shard_of(planned) if attempt < _NEARBY else self.indices
            index = int(near[draw % len(near)])
        image = torch.zeros(self._shape, dtype=self._dtype)
        seen = self.view(image, self._nothing(), seed)[1] if self.kind is not None else None  # shaped as the others
        return _Loaded(image, self.settings.resolution, seen, -1, -1)

    def _decode(self, record: Record) -> tuple[Any, Target | None]:
        """What the view is called with."""
        shards, pixels = self.shards, opened(record.data, self.shards, self.view, self.settings)
        if self.kind is None:
            return pixels, None
        return pixels, checked_target(self.kind, record.target, len(shards.classes), pixels.shape[:2])

    def _nothing(self) -> Target | None:
        """The target of a black image."""
        match self.kind:
            case None:
                return None
            case "labels":
                return np.zeros(len(self.shards.classes), bool)
            case "value":
                return np.zeros(len(self.shards.classes), np.float32)
            case "mask":
                return np.zeros(self.settings.resolution, np.uint8)
            case "boxes":
                return Boxes(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))

    def _shard_of(self, index: int) -> Ints:
        """Those of `indices` that lie in the shard of sample `index`."""
        ends = np.cumsum(self.shards.sizes_of(self.indices))
        number = int(np.searchsorted(ends, np.searchsorted(self.indices, index), "right"))
        return self.indices[ends[number - 1] if number else 0 : ends[number]]

    def _warn(self, index: int, reason: str) -> None:
        if index not in self._named:
            self._named.add(index)
            then = "another image takes its place" if self.purpose == "train" else "it is left out"
            log.warning("cannot decode %s; %s", reason, then)


class _Loaded(NamedTuple):
    image: Tensor
    size: tuple[int, int]
    target: Seen
    sample: int
    label: int


def together(targets: list[Any]) -> Tensor | list[Any]:
    """One tensor where all are tensors of one shape."""
    if all(isinstance(target, Tensor) and target.shape == targets[0].shape for target in targets):
        return torch.stack(targets)
    return targets
