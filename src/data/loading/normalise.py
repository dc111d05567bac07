"""What happens to a batch on the device before the model: flip and normalise, pure torch, made to be compiled.

Random bits come from an integer hash of each sample's seed. It works on 32-bit words held in int64, with every product
below 2**63, so CPU and GPU give the same bits; a compiled step calls the same code.
"""

from collections.abc import Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor

FLIP_STREAM = 0
MASK_STREAM = 1

_WORD = 0xFFFFFFFF


Word = TypeVar("Word", Tensor, int)


def _multiply(word: Word, factor: int) -> Word:
    """word * factor modulo 2**32, without an intermediate beyond 2**48 + 2**32."""
    return ((word & 0xFFFF) * factor + ((((word >> 16) * factor) & 0xFFFF) << 16)) & _WORD


def _mix(word: Word) -> Word:
    """The lowbias32 finaliser (github.com/skeeto/hash-prospector), a bijection of 32-bit words."""
    word = _multiply(word ^ (word >> 16), 0x21F0AAAD)
    word = _multiply(word ^ (word >> 15), 0xD35A2D97)
    return word ^ (word >> 15)


def _bits(seed: Word, counter: Word, stream: int) -> Word:
    """62 bits for each seed and counter, which are broadcast."""
    low, high = seed & _WORD, (seed >> 32) & _WORD
    state = _mix(low ^ _mix((high + (stream + 1) * 0x9E3779B9) & _WORD))
    other = _mix(high ^ _mix((low + (stream + 1) * 0x85EBCA6B) & _WORD))
    first = _mix(_mix((state + counter * 0x9E3779B9) & _WORD) ^ other)
    second = _mix(_mix((other + counter * 0xC2B2AE35) & _WORD) ^ state)
    return (first << 30) | (second >> 2)


def hash_bits(seed_B: Tensor, stream: int, count: int) -> Tensor:
    """Random bits that depend on (seed, stream, counter) only.

    Args:
        seed_B: int64 (B,), as in `Batch.seed`.
        stream: small non-negative number that keeps uses apart (`FLIP_STREAM`, `MASK_STREAM`).
        count: numbers per sample.

    Returns:
        int64 (B, count), uniform in [0, 2**62). `sum` of them would overflow; compare, sort or mask them.
    """
    return cast(Tensor, _hash_bits(seed_B, stream, count))


# One node for the compiler. Inductor writes a value out again at each of its uses, and in this chain every value has
# two: it would take minutes over a few kilobytes of numbers.
@torch.library.custom_op("swinmim::hash_bits", mutates_args=())
def _hash_bits(seed_B: Tensor, stream: int, count: int) -> Tensor:
    counter = torch.arange(1, count + 1, device=seed_B.device, dtype=torch.int64)
    return _bits(seed_B[:, None], counter[None], stream)


@_hash_bits.register_fake
def _(seed_B: Tensor, stream: int, count: int) -> Tensor:
    return seed_B.new_empty(len(seed_B), count)


def flips(seed: int) -> bool:
    """Whether `random_flip` mirrors the image of this seed; in Python's own integers, for one image at a time."""
    return bool(_bits(seed, 1, FLIP_STREAM) & 1)


def random_flip(image_BHWC: Tensor, seed_B: Tensor) -> Tensor:
    """Mirror each image left to right with probability one half, decided by its seed. Same shape and values; uint16,

    for which few kernels exist, comes back as int32.
    """
    if image_BHWC.dtype == torch.uint16:
        image_BHWC = image_BHWC.to(torch.int32)
    flip = (hash_bits(seed_B, FLIP_STREAM, 1) & 1).bool()
    return torch.where(flip[:, :, None, None], image_BHWC.flip(2), image_BHWC)


def normalise(image_BHWC: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """(..., H, W, C) to float32 (..., C, H, W): (image / peak - mean) / std, mean and std in 0..1 units.

    The peak is 255 for uint8 and 65535 for uint16.
    """
    peak = 255.0 if image_BHWC.dtype == torch.uint8 else 65535.0
    mean_C = torch.as_tensor(mean, dtype=torch.float32, device=image_BHWC.device)
    std_C = torch.as_tensor(std, dtype=torch.float32, device=image_BHWC.device)
    scaled_BHWC = (image_BHWC.to(torch.float32) / peak - mean_C) / std_C
    return scaled_BHWC.movedim(-1, -3).contiguous()
