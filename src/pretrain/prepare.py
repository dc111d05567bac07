"""From a batch of uint8 images to all that a step of SimMIM needs: one pure function, made to be compiled.

Shapes: B batch, H W pixels, C image channels, h w mask units.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from data.loading.normalise import normalise, random_flip
from pretrain.masking import random_mask
from pretrain.simmim import Target, make_target
from swinmim.models.compiled import own_code

Prepare = Callable[..., tuple[Tensor, Tensor, Tensor]]


def prepare_step(
    image_BHWC: Tensor,
    seed_B: Tensor,
    mean_C: Tensor,
    std_C: Tensor,
    *,
    flip: bool,
    grid: tuple[int, int],
    mask_ratio: float,
    target: Target,
) -> tuple[Tensor, Tensor, Tensor]:
    """Flip, normalise, draw the mask and make the target; every random bit comes from the seeds.

    Args:
        image_BHWC: uint8 images.
        seed_B: int64 seeds, one per image (`Batch.seed`).
        mean_C, std_C: per channel, in 0..1 units.
        flip: mirror half of the images.
        grid: mask units (h, w), see `mask_grid`.
        mask_ratio, target: see `SimMIM`.

    Returns:
        Normalised images (B, C, H, W) float32, mask (B, h, w) bool with True = masked, target (B, C, H, W) float32.
    """
    images_BCHW = normalise(random_flip(image_BHWC, seed_B) if flip else image_BHWC, mean_C, std_C)
    return images_BCHW, random_mask(seed_B, grid, mask_ratio), make_target(images_BCHW, target)


def compiled_prepare_step(backend: str = "inductor") -> Prepare:
    """`prepare_step` as one graph: its dozens of pointwise passes over the pixels become a few."""
    step = own_code(prepare_step, "prepare_step")  # another run in this process has other shapes
    return torch.compile(step, backend=backend, dynamic=False, fullgraph=True)
