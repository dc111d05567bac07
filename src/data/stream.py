"""Streaming: WebDataset tars without an index, in random order with repetition. NOT exactly resumable.

webdataset's own stages read tars and group members; the files are opened here, so that no `pipe:` ever runs, and
decoded here, so that no pickle is ever loaded.
"""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander

from data.bands import Pixels
from data.batch import LabelledBatch
from data.dataset import Augment
from data.decode import MAX_BYTES, DecodeError, Decoder, decode
from data.order import key, sample_seeds, words
from data.part import measure
from data.remote import Remote, check_url, is_url
from data.shards import ShardSet
from data.worker import heed_only_the_parent
from swinmim.errors import DataError

log = logging.getLogger(__name__)

_IMAGES = ("jpg", "jpeg", "png", "webp", "tif", "tiff", "npy")
_FEW_BAD = 16
_MEASURED = 256
_KEPT = 1000  # samples that are shuffled among each other


def find_shards(path: str, *, allow_insecure: bool = False) -> list[str]:
    """The tars of a directory, or the URLs that a pattern with {000..123} means.

    Raises:
        DataError: none, or a refused scheme.
    """
    if is_url(path):
        check_url(path, allow_insecure=allow_insecure)
        return list(expand_urls(path))
    found = sorted(str(file) for file in Path(path).glob("*.tar")) if Path(path).is_dir() else list(expand_urls(path))
    if not found or not Path(found[0]).is_file():
        raise DataError(f"data.streaming reads WebDataset tars; {path} holds or means none.")
    return found


class StreamSet(ShardSet):
    """What a run asks of a set, for tars without an index: colour images, unknown in number.

    Args:
        path: directory or pattern, see `find_shards`.
        samples: images that count as an epoch.
        allow_insecure: see `find_shards`.

    Raises:
        DataError: no shards, or no readable image among the first.
    """

    def __init__(self, path: str, samples: int, *, allow_insecure: bool = False) -> None:
        self.urls = find_shards(path, allow_insecure=allow_insecure)
        self.path, self.classes, self.shards = Path(path), (), ()
        self.channels, self.bits = 3, 8
        self.samples, self.allow_insecure = samples, allow_insecure
        self.fingerprint = f"streaming {path}"
        self._measure()

    def __len__(self) -> int:
        return self.samples

    def _measure(self) -> None:
        """Mean and deviation of the first images."""
        stream = StreamDataset(self.urls, None, (1, 1), 3, 1, 0, allow_insecure=self.allow_insecure)
        reasons = ["none found"]

        def readable() -> Iterator[Pixels]:
            for _, data, _ in itertools.islice(stream.samples(0), _MEASURED):
                try:
                    yield decode(data)
                except DecodeError as error:
                    reasons.append(str(error))

        found = measure(readable(), 3)
        if found is None:
            raise DataError(
                f"Streaming reads colour images of 8 bits; none of the first images of {self.path} is one"
                f" ({reasons[-1]}). Sets of other bands are read by index: python -m data.write index DIR --channels N"
            )
        self.mean, self.std = tuple(found[0]), tuple(found[1])

    def close(self) -> None:
        """Nothing is kept open."""


class StreamDataset(IterableDataset[LabelledBatch]):
    """Micro-batches without end. Every rank and worker draws shards at random, with repetition, from its own seed.

    Args:
        urls: of the shards.
        augment, resolution, channels, decoder: as for `BatchDataset`.
        batch_size: samples of a micro-batch.
        seed: of shards, shuffling and augmentation; another one for every start, since there is no position to keep.
        rank, world: this process among all.
        max_bad_fraction: share of unreadable samples beyond which the run stops.
    """

    def __init__(
        self,
        urls: list[str],
        augment: Augment | None,
        resolution: tuple[int, int],
        channels: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        max_bad_fraction: float = 1e-3,
        decoder: Decoder = "turbo",
        allow_insecure: bool = False,
    ) -> None:
        self.urls, self.augment, self.resolution, self.channels = urls, augment, resolution, channels
        self.batch_size, self.seed, self.rank, self.world = batch_size, seed, rank, world
        self.max_bad_fraction, self.decoder, self.allow_insecure = max_bad_fraction, decoder, allow_insecure

    def _open(self, url: str) -> BinaryIO:
        if not is_url(url):
            return open(url, "rb")
        folder, _, name = url.rpartition("/")
        stream: BinaryIO = Remote(folder, allow_insecure=self.allow_insecure).open(name)
        return stream

    def samples(self, stream: int) -> Iterator[tuple[str, bytes, int]]:
        """("url key", image file, label) for ever, shuffled within a buffer; tars in keyed random order."""
        kept: list[tuple[str, bytes, int]] = []
        number = drawn = barren = 0
        while True:
            url = self.urls[int(words(key("shards", self.seed, stream), np.array([number]))[0] % len(self.urls))]
            number += 1
            empty = True
            with self._open(url) as file:
                opened: Any = iter([{"url": url, "stream": file}])
                for sample in group_by_keys(tar_file_expander(opened)):
                    field = next((name for name in _IMAGES if name in sample), None)
                    if field is None:
                        continue
                    label = int(sample["cls"]) if sample.get("cls", b"x").isdigit() else -1
                    empty = False
                    kept.append((f"{url} {sample['__key__']}", sample[field], label))
                    if len(kept) > _KEPT:
                        place = int(words(key("kept", self.seed, stream), np.array([drawn]))[0] % len(kept))
                        drawn += 1
                        kept[place], kept[-1] = kept[-1], kept[place]
                        yield kept.pop()
            barren = barren + 1 if empty else 0
            if barren > 10 * len(self.urls):
                raise DataError(f"The {len(self.urls)} shards of the stream hold no image ({self.urls[0]}, ...).")
            if number >= len(self.urls):  # a set smaller than the buffer
                yield from kept
                kept = []

    def __iter__(self) -> Iterator[LabelledBatch]:
        assert self.augment is not None
        worker = get_worker_info()
        stream = self.rank + self.world * (worker.id if worker is not None else 0)
        samples = self.samples(stream)
        bad = seen = 0
        for batch in range(2**62):
            seeds = sample_seeds(key("stream", self.seed, stream), batch, np.arange(self.batch_size))
            image = torch.empty((self.batch_size, *self.resolution, self.channels), dtype=torch.uint8)
            label = torch.empty(self.batch_size, dtype=torch.int64)
            substituted = torch.zeros(self.batch_size, dtype=torch.bool)
            for row, seed in enumerate(seeds.tolist()):
                for name, data, number in samples:
                    seen += 1
                    try:
                        if len(data) > MAX_BYTES:
                            raise DecodeError(f"{len(data)} bytes")
                        pixels = decode(data, self.channels, decoder=self.decoder)
                    except DecodeError as error:
                        log.warning("cannot decode %s: %s; the next image takes its place", name, error)
                        bad, substituted[row] = bad + 1, True
                        if bad > max(_FEW_BAD, self.max_bad_fraction * seen):
                            limit = f"max_bad_fraction={self.max_bad_fraction}"
                            raise DataError(f"{bad} of {seen} images are damaged, more than {limit}.") from error
                        continue
                    image[row], label[row] = self.augment(pixels, seed), number
                    break
            yield {
                "image": image,
                "seed": torch.from_numpy(seeds),
                "index": torch.full((self.batch_size,), -1),
                "substituted": substituted,
                "label": label,
                "valid": torch.ones(self.batch_size, dtype=torch.bool),
            }


class StreamLoader(DataLoader[LabelledBatch]):
    """So many micro-batches of a `StreamDataset`; the same number on every rank, whatever the shards hold."""

    def __init__(self, dataset: StreamDataset, batches: int, num_workers: int) -> None:
        super().__init__(
            dataset,
            batch_size=None,
            num_workers=num_workers,
            worker_init_fn=heed_only_the_parent,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
        )
        self._batches = batches

    def __len__(self) -> int:
        return self._batches

    # As for `BatchLoader`: Lightning goes on counting in the middle of an epoch.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state

    def __iter__(self) -> Iterator[LabelledBatch]:  # type: ignore[override]
        # One stream over all epochs: starting again would repeat the same shards.
        if not hasattr(self, "_endless"):
            self._endless = super().__iter__()
        for _ in range(self._batches):
            yield next(self._endless)
