"""Tars without an index as a set: all that can be known of images that are only read from front to back."""

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from data.codecs.bands import Bits, Pixels
from data.codecs.decode import MAX_PIXELS, DecodeError, decode
from data.codecs.statistics import moments, statistics
from data.shards.remote import is_url
from data.shards.tar_stream import BadShard, ForeignTars, Sample, find_shards
from swinmim.distributed import is_main
from swinmim.errors import DataError

log = logging.getLogger(__name__)

FEW_SHARDS = 4  # damaged ones that are always tolerated
_MEASURED = 256


class StreamSet:
    """Colour images, unknown in number; see `SampleSet` for what is known of them.

    Args:
        path: directory or pattern, see `find_shards`.
        samples: images that count as an epoch.
        allow_insecure: see `find_shards`.
        max_pixels: of an image.
        measured: from how many images to take mean and deviation; 1 where these are not used, to find out whether there
            is one.

    Raises:
        DataError: no shards, or no readable image among the first.
    """

    streams: Literal[True] = True
    classes: tuple[str, ...] = ()
    channels = 3
    bits: Bits = 8

    def __init__(
        self,
        path: str,
        samples: int,
        *,
        allow_insecure: bool = False,
        max_pixels: int = MAX_PIXELS,
        measured: int = _MEASURED,
    ) -> None:
        self.urls = find_shards(path, allow_insecure=allow_insecure)
        self.path, self.samples, self.allow_insecure = Path(path), samples, allow_insecure
        self.fingerprint = f"streaming {path}"
        self.fork_safe = not any(is_url(url) for url in self.urls)
        if is_main():
            log.warning("data.streaming_samples: images come in random order with repetition; no resume will be exact")
        self.mean, self.std = self._measure(max_pixels, measured)

    def __len__(self) -> int:
        return self.samples

    def _measure(self, max_pixels: int, measured: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and deviation of the first images that can be read."""
        tars, bad, undecodable = ForeignTars(allow_insecure=self.allow_insecure), [], []

        def images() -> Iterator[Sample]:
            for url in self.urls:
                try:
                    yield from tars.samples(url, patient=False)
                except BadShard as error:
                    log.warning("a shard cannot be read: %s", error)
                    bad.append(str(error))
                    if len(bad) == FEW_SHARDS:  # no set to begin with
                        return

        def readable() -> Iterator[Pixels]:
            for sample in itertools.islice(images(), _MEASURED):
                try:
                    yield decode(sample.data, max_pixels=max_pixels)
                except DecodeError as error:
                    undecodable.append(str(error))

        found = statistics(map(moments, itertools.islice(readable(), measured)), self.bits)
        if found is None and undecodable:
            raise DataError(
                f"Streaming reads colour images of 8 bits; none of the first images of {self.path} is one"
                f" ({undecodable[-1]}). Sets of other bands are read by index:"
                " python -m data.write index DIR --channels N"
            )
        if found is None:
            reason = "; ".join(bad) or "no member is named like an image"
            raise DataError(f"The first shards of {self.path} hold no image: {reason}.")
        return found
