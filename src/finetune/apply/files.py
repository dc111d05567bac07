"""Images as they lie, labelled or not -> batches in the order of their listing. Nothing is packed or cached."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from data.codecs.bands import Bits, Pixels
from data.codecs.decode import DecodeError, decode
from data.codecs.targets import Needs
from data.config import DecodingConfig
from data.loading.batch import Batch
from data.loading.ready import ReadyLoader
from data.loading.views import View
from data.processes import default_workers
from data.sources.digits import DIGITS, read_digits
from data.sources.find import find_source
from data.sources.source import Source
from finetune.drawing.tiles import to_rgb
from swinmim.errors import ConfigError, DataError
from swinmim.outside import one_line


class Read(NamedTuple):
    """A batch of images of a source, without those that are damaged."""

    positions: list[int]
    """In the listing, one for each image of the batch."""
    batch: Batch | None
    """None where all were damaged."""
    damaged: list[tuple[int, str]]
    """(position, reason)."""


@dataclass(frozen=True)
class Images:
    """The images of a source, decoded one by one.

    bits, channels: of what `pixels` gives. how: decoder and limits.
    """

    source: Source
    channels: int
    bits: Bits
    how: DecodingConfig

    def __len__(self) -> int:
        return len(self.source.items)

    @property
    def names(self) -> Sequence[str]:
        return [item.name for item in self.source.items]

    def data(self, position: int) -> bytes:
        """Raises DecodeError for a file that cannot be read."""
        try:
            return self.source.load(position)
        except OSError as error:
            raise DecodeError(error.strerror or str(error)) from error

    def pixels(self, position: int) -> Pixels:
        """(H, W, C). Raises DecodeError, also for a file that cannot be read."""
        data, how = self.data(position), self.how
        return decode(data, self.channels, bits=self.bits, max_pixels=how.max_pixels, decoder=how.decoder)

    def rgb(self, position: int) -> NDArray[np.uint8]:
        """uint8 (H, W, 3), to draw on."""
        return to_rgb(self.pixels(position))


def open_images(path: str, how: DecodingConfig, *, channels: int, bits: int = 8, needs: Needs = "nothing") -> Images:
    """The images at a path, see `find_source`, for a model of so many channels; its clips, where a task `needs` these.

    Raises DataError: nothing of the kind; ConfigError: a written set of other channels.
    """
    if path == DIGITS:
        return Images(read_digits(), channels, 8, how)
    if Path(path).is_dir() and not any(Path(path).iterdir()):
        raise DataError(f"No images found in {path}: the folder is empty.")
    source = find_source(path, needs if needs == "clip" else "nothing")
    if (stored := source.stored) is not None:
        if stored.channels != channels:
            raise ConfigError(f"{path} has {stored.channels} channels and the model takes {channels}.")
        bits = stored.bits
    return Images(source, channels, 16 if bits == 16 else 8, how)


def read(images: Images, view: View, batch_size: int) -> Iterator[Read]:
    """All of them, in order, with the loader processes that the settings ask for.

    Raises DataError: at the end, where not one image could be read.
    """
    workers = default_workers(1) if images.how.num_workers is None else images.how.num_workers
    workers = min(workers, -(-len(images) // batch_size))
    loader = ReadyLoader(
        _Decoded(images, view), workers, fork_safe=True, batch_size=batch_size, shuffle=False, collate_fn=_as_it_is
    )
    first, good = "", 0
    for found in _typed(loader):
        good += len(found.positions)
        if found.damaged and not first:
            position, reason = found.damaged[0]
            first = one_line(f"{images.names[position]}: {reason}")
        yield found
    if not good:
        raise DataError(f"None of the {len(images)} images can be read. The first, {first}.")


def _typed(loader: Any) -> Iterator[Read]:
    yield from loader


def _as_it_is(batch: Any) -> Any:
    return batch


class _Decoded(Dataset[Any]):
    def __init__(self, images: Images, view: View) -> None:
        self.images, self.view = images, view
        self.native = getattr(view, "native", False)

    def __len__(self) -> int:
        return len(self.images)

    def opened(self, position: int) -> Any:
        """What the view is called with."""
        if hasattr(self.view, "open"):
            return self.view.open(self.images.data(position), self.images.how.max_pixels)
        return self.images.pixels(position)

    def __getitems__(self, positions: list[int]) -> Read:
        good, damaged, seen, sizes = [], [], [], []
        for position in positions:
            try:
                pixels = self.opened(position)
                image, _ = self.view(pixels, None, position)
            except DecodeError as error:
                damaged.append((position, str(error)))
                continue
            good.append(position)
            seen.append(image)
            sizes.append(pixels.shape[:2])
        return Read(good, batch_of(seen, sizes, good, self.native) if good else None, damaged)


def batch_of(
    images: Sequence[torch.Tensor], sizes: Sequence[tuple[int, ...]], numbers: Sequence[int], native: bool
) -> Batch:
    """A batch without labels of images that the view of evaluation gave."""
    count = len(images)
    return {
        "image": list(images) if native else torch.stack(list(images)),
        "seed": torch.tensor(numbers),
        "index": torch.tensor(numbers),
        "substituted": torch.zeros(count, dtype=torch.bool),
        "label": torch.full((count,), -1),
        "valid": torch.ones(count, dtype=torch.bool),
        "size": torch.tensor(sizes),
    }
