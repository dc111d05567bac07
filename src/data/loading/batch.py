"""The batch that leaves the loader: a dict of tensors, images still uint8 and channels last.

Legend: B samples of this rank's micro-batch, H x W pixels, C channels.
"""

from typing import TypedDict

from torch import Tensor


class ImageBatch(TypedDict):
    """Images without labels.

    image: uint8, or uint16 from a set of 16 bits, (B, H, W, C), cropped and resized, not yet flipped or normalised.
    seed: int64 (B,), one non-negative random seed per sample, a function of (run seed, epoch, global position). Flip
        and mask on the device are derived from it, so they do not depend on rank, worker or restart.
    index: int64 (B,), index of the delivered image in its shard set.
    substituted: bool (B,), True where the planned image could not be decoded and another one stands in its place.
    """

    image: Tensor
    seed: Tensor
    index: Tensor
    substituted: Tensor


class LabelledBatch(ImageBatch):
    """Images with labels, and every batch of an evaluation loader.

    label: int64 (B,), index into `ShardSet.classes`; -1 where the set has no labels.
    valid: bool (B,), False where an evaluation batch is filled up with repeats, or holds another image than planned.
        Sums must leave those out.
    """

    label: Tensor
    valid: Tensor
