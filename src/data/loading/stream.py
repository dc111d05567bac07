"""Streaming: WebDataset tars without an index, in random order with repetition. NOT exactly resumable."""

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from data.codecs.decode import MAX_BYTES, DecodeError, decode
from data.loading.batch import Batch, LoaderSettings
from data.loading.damage import StreamDamage
from data.loading.ready import ReadyLoader, without_stack
from data.loading.views import View
from data.order.hashing import key, sample_seeds, words
from data.shards.streamed import StreamSet
from data.shards.tar_stream import BadShard, ForeignTars, Sample
from swinmim.errors import DataError
from swinmim.outside import one_line

log = logging.getLogger(__name__)

_HOPELESS = 64  # damaged images, or shards without an image, one after the other; damaged shards: an eighth
_KEPT = 1000  # samples that are shuffled among each other
_KEPT_BYTES = 256 << 20  # and what they may take in each loader process


class StreamDataset(IterableDataset[tuple[Batch, Tensor]]):
    """Micro-batches without end. Every rank and worker draws shards at random, with repetition, from its own seed.

    Beside each batch lies what was met since the one before, int64 (5,): images, damaged images, shards, damaged
    shards, and 1 when there is nothing left to read. Then the batch is black.

    Args:
        shards: the tars.
        view: see `View`.
        settings: of which resolution, batch size and decoder matter here.
        seed: of shards, shuffling and augmentation; another one for every start, since there is no position to keep.
        rank, world: this process among all.
    """

    def __init__(
        self, shards: StreamSet, view: View, settings: LoaderSettings, seed: int, *, rank: int = 0, world: int = 1
    ) -> None:
        self.urls, self.channels, self.fork_safe = shards.urls, shards.channels, shards.fork_safe
        self.view, self.settings, self.seed, self.rank, self.world = view, settings, seed, rank, world
        self.tars = ForeignTars(allow_insecure=shards.allow_insecure)
        self._met = torch.zeros(5, dtype=torch.int64)

    def samples(self, stream: int) -> Iterator[Sample]:
        """Images, each drawn from a buffer that holds a thousand, or one pass over a smaller set. Ends when one shard
        after the other holds none."""
        kept: list[Sample] = []
        held = drawn = barren = 0
        full = False  # from then on one comes out for each that goes in
        for number in itertools.count():
            full |= number >= len(self.urls)
            url = self.urls[int(words(key("shards", self.seed, stream), np.array([number]))[0] % len(self.urls))]
            self._met[2] += 1
            try:
                for sample in self.tars.samples(url):
                    barren = 0
                    kept.append(sample)
                    held += len(sample.data)
                    full |= len(kept) > _KEPT
                    surplus = full
                    while surplus or (held > _KEPT_BYTES and len(kept) > 1):
                        place = int(words(key("kept", self.seed, stream), np.array([drawn]))[0] % len(kept))
                        drawn += 1
                        kept[place], kept[-1] = kept[-1], kept[place]
                        held -= len(kept[-1].data)
                        surplus = False
                        yield kept.pop()
            except BadShard as error:
                log.warning("a shard is damaged, the next takes its place: %s", error)
                self._met[3] += 1
                barren += _HOPELESS // 8  # on a server each takes half a minute
            barren += 1
            if barren > _HOPELESS:
                return

    def _image(self, samples: Iterator[Sample], seed: int) -> tuple[Tensor, int, bool] | None:
        """Picture, label, and whether it stands for another; None when there is none to be had."""
        for damaged, sample in enumerate(itertools.islice(samples, _HOPELESS)):
            self._met[0] += 1
            try:
                if len(sample.data) > MAX_BYTES:
                    raise DecodeError(f"{len(sample.data)} bytes")
                pixels = decode(
                    sample.data,
                    self.channels,
                    max_pixels=self.settings.max_pixels,
                    decoder=self.settings.decoder,
                )
            except DecodeError as error:
                log.warning("cannot decode %s: %s; the next image takes its place", one_line(sample.name), error)
                self._met[1] += 1
            else:
                return self.view(pixels, None, seed)[0], sample.label, damaged > 0
        return None

    def __iter__(self) -> Iterator[tuple[Batch, Tensor]]:
        worker = get_worker_info()
        stream = self.rank + self.world * (worker.id if worker is not None else 0)
        samples = self.samples(stream)
        size = self.settings.batch_size
        for batch in itertools.count():
            seeds = sample_seeds(key("stream", self.seed, stream), batch, np.arange(size))
            image = torch.zeros((size, *self.settings.resolution, self.channels), dtype=torch.uint8)
            label = torch.full((size,), -1)
            substituted = torch.zeros(size, dtype=torch.bool)
            for row, seed in enumerate(seeds.tolist()):
                found = self._image(samples, seed)
                if found is None:
                    self._met[4] = 1
                    break
                image[row], label[row], substituted[row] = found
            met, self._met = self._met, torch.zeros_like(self._met)
            yield (
                {
                    "image": image,
                    "seed": torch.from_numpy(seeds),
                    "index": torch.full((size,), -1),
                    "substituted": substituted,
                    "label": label,
                    "valid": torch.ones(size, dtype=torch.bool),
                },
                met,
            )


class StreamLoader(ReadyLoader):
    """So many micro-batches of a `StreamDataset`; the same number on every rank, whatever the shards hold.

    Args:
        dataset: what to read.
        batches: of an epoch.
        num_workers: see `ReadyLoader`.
        max_bad_fraction: share of images, and of shards, over all ranks, that may be damaged; a few always may.
    """

    def __init__(self, dataset: StreamDataset, batches: int, num_workers: int, max_bad_fraction: float) -> None:
        super().__init__(dataset, num_workers, dataset.fork_safe, batch_size=None)
        self._batches, self._max_bad_fraction = batches, max_bad_fraction

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # One stream over all epochs: starting again would repeat the same shards.
        if not hasattr(self, "_endless"):
            self._endless: Any = super().__iter__()
            self._damage = StreamDamage(self._max_bad_fraction)
        for number in range(1, self._batches + 1):
            try:
                batch, met = next(self._endless)
            except DataError as error:
                raise without_stack(error) from error
            self._damage.add(met)
            if number == self._batches:
                self._damage.agree()
            yield batch
