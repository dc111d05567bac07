"""From places in the order to a batch of tensors. Runs in the loader's worker processes."""

import logging
import signal
from collections.abc import Iterable
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from data.codecs.decode import DecodeError, Decoder, decode
from data.loading.batch import LabelledBatch
from data.loading.sampler import Place
from data.loading.views import Augment
from data.order.hashing import Ints, key, sample_seeds, words
from data.shards.set import SampleSet

log = logging.getLogger(__name__)

_SUBSTITUTES = 12  # tries before a set counts as unreadable
_NEARBY = 4  # of them in the shard of the damaged image: another one may have to come from far away
_PATIENCE = 300  # seconds for one image, before `heartbeat.stall_s` ends a run without naming it


class _Decoding:
    """While a sample is decoded: any fault names it, and a loader process that hangs in it ends by SIGALRM.

    The kernel keeps the time, so it also ends C code that never gives the interpreter back.
    """

    def __init__(self, name: str, limited: bool) -> None:
        self.name, self.limited = name, limited

    def __enter__(self) -> None:
        if self.limited:
            signal.alarm(_PATIENCE)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self.limited:
            signal.alarm(0)
        if error is not None:
            error.add_note(f"The image is {self.name}.")


class BatchDataset(Dataset[LabelledBatch]):
    """Reads, decodes and augments the samples of a micro-batch, straight into one tensor of 8 or 16 bits.

    Args:
        shards: the set.
        indices: samples that substitutes may come from.
        augment: see `Augment`.
        resolution: (height, width) of what `augment` returns.
        seed: of the run.
        purpose: "train" or "eval"; keeps the seeds of the two apart.
        decoder: see `decode.Decoder`.
    """

    def __init__(
        self,
        shards: SampleSet,
        indices: Ints,
        augment: Augment,
        resolution: tuple[int, int],
        seed: int,
        purpose: Literal["train", "eval"],
        decoder: Decoder = "turbo",
    ) -> None:
        self.shards, self.indices, self.augment, self.resolution = shards, indices, augment, resolution
        self.seed, self.purpose, self.decoder = seed, purpose, decoder
        self.dtype = torch.uint8 if shards.bits == 8 else torch.uint16
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
        records = [self.shards.read(int(self._reading[n]) - 1) for n in workers if self._reading[n] > 0]
        return [f"{record.shard}: {record.key}.{record.suffix}" for record in records]

    def __getitems__(self, places: list[Place]) -> LabelledBatch:
        """The batch of these places; the stock DataLoader calls this with what the batch sampler yields."""
        shape = (len(places), *self.resolution, self.shards.channels)
        image = torch.empty(shape, dtype=self.dtype)
        worker = get_worker_info()
        if worker is not None:
            # Filled where the trainer will read it, instead of copied there later.
            image.share_memory_()  # type: ignore[no-untyped-call]
        seeds = sample_seeds(self.seed, places[0].epoch, np.array([place.position for place in places]), self.purpose)
        rows = image.numpy()  # as for `_reading`: an assignment through numpy takes a tenth of the time
        index, label = [], []
        for row, (place, seed) in enumerate(zip(places, seeds.tolist(), strict=True)):
            crop, found, of = self._load(place.sample, seed, worker.id if worker is not None else None)
            rows[row] = crop
            index.append(found)
            label.append(of)
        valid = torch.tensor([place.valid for place in places])
        substituted = valid & torch.tensor([found != place.sample for found, place in zip(index, places, strict=True)])
        return {
            "image": image,
            "seed": torch.from_numpy(seeds),
            "index": torch.tensor(index),
            "substituted": substituted,
            "label": torch.tensor(label),
            "valid": valid & ~substituted if self.purpose == "eval" else valid,
        }

    def _load(self, planned: int, seed: int, worker: int | None) -> tuple[Tensor, int, int]:
        """Image, index and label of a sample, or of its substitute, which depends on the sample and its seed only.

        The index is -1 and the image black when the substitutes are damaged too; the loader ends the run for it.
        """
        index, reading = planned, self._reading.numpy()
        for attempt in range(_SUBSTITUTES + 1):
            reading[worker or 0] = index + 1
            record = self.shards.read(index)
            name = f"{record.shard}: {record.key}.{record.suffix}"
            try:
                with _Decoding(name, worker is not None):
                    pixels = decode(record.data, self.shards.channels, bits=self.shards.bits, decoder=self.decoder)
                    image = self.augment(pixels, seed)
            except DecodeError as error:
                self._warn(index, f"{name}: {error}")
            else:
                reading[worker or 0] = 0
                return image, index, record.label
            draw = int(words(key("substitute", seed), np.array([attempt]))[0])
            near = self._shard_of(planned) if attempt < _NEARBY else self.indices
            index = int(near[draw % len(near)])
        return torch.zeros(*self.resolution, self.shards.channels, dtype=self.dtype), -1, -1

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
