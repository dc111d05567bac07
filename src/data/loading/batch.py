"""The batch that leaves the loader, images still uint8 and channels last, and the settings that decide what is in it.

Legend: B samples of this rank's micro-batch, H x W pixels, C channels.
"""

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from torch import Tensor

from data.codecs.decode import MAX_PIXELS, Decoder


class Batch(TypedDict):
    """A micro-batch of any loader.

    image: uint8, or uint16 from a set of 16 bits, (B, H, W, C), cropped and resized, not normalised; from a view of
        `native` images a list of B, (H_i, W_i, C); from one of another `shape` (B, *shape), as (B, T, H, W, C).
    seed: int64 (B,), one non-negative random seed per sample, a function of (run seed, epoch, global position). What is
        random on the device is derived from it, so it does not depend on rank, worker or restart.
    index: int64 (B,), index of the delivered image in its shard set; -1 from a stream.
    substituted: bool (B,), True where the planned sample could not be decoded and another one stands in its place.
    label: int64 (B,), index into the set's classes; -1 where it has no labels.
    valid: bool (B,), False where an evaluation batch is filled up with repeats, or holds another sample than planned.
        Sums must leave those out.
    size: int64 (B, 2), (height, width) of the image before the view; not from a stream.
    target: only where the set has targets: (B, ...) where the view makes tensors of one shape, else a list of B, as
        of dicts with the boxes of each image.
    """

    image: Tensor | list[Tensor]
    seed: Tensor
    index: Tensor
    substituted: Tensor
    label: Tensor
    valid: Tensor
    size: NotRequired[Tensor]
    target: NotRequired[Tensor | list[Any]]


@dataclass(frozen=True)
class LoaderSettings:
    """What a data module needs to know beside its sets and views."""

    resolution: tuple[int, int]
    """(height, width) of the images that the views return."""
    seed: int
    """Of order and augmentation."""
    global_batch: int
    """Samples per optimizer step over all processes."""
    batch_size: int
    """Samples per process and forward pass."""
    num_workers: int = 0
    """Loader processes per rank; they do not change the batches."""
    max_bad_fraction: float = 1e-3
    """Share of an epoch's samples, over all ranks, that may be damaged; a few always may."""
    lanes: int = 1
    """See `EpochOrder`."""
    decoder: Decoder = "turbo"
    max_pixels: int = MAX_PIXELS
    """Of an image that is decoded."""
    targets: bool = True
    """Whether what lies beside the images is decoded and joins the batch."""
