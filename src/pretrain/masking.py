"""Random masks of SimMIM (official data/data_simmim_pt.py): units of mask_unit pixels, True = masked."""

import math

import torch
from torch import Tensor

from data.loading.normalise import MASK_STREAM, hash_bits
from swinmim.models.errors import ModelError


def mask_grid(resolution: tuple[int, int], mask_unit: int) -> tuple[int, int]:
    """Units per side, (H / mask_unit, W / mask_unit). Raises ModelError: the image is not a whole number of units."""
    height, width = resolution
    if height % mask_unit or width % mask_unit:
        below = {max(mask_unit, side // mask_unit * mask_unit) for side in resolution}
        above = {-(-side // mask_unit) * mask_unit for side in resolution}
        raise ModelError(
            f"mim.mask_unit must divide the image: {height} x {width} px is no whole number of {mask_unit}-px units. "
            f"Nearest sides: {', '.join(map(str, sorted(below | above)))}."
        )
    return height // mask_unit, width // mask_unit


def num_masked(grid: tuple[int, int], mask_ratio: float) -> int:
    """Masked units per image: ceil(ratio * units), 22 of 36 at 192 px with 32-px units and ratio 0.6."""
    return math.ceil(mask_ratio * grid[0] * grid[1])


def random_mask(seed_B: Tensor, grid: tuple[int, int], mask_ratio: float) -> Tensor:
    """Uniformly random masks with the same count in every image, the same on every device for the same seeds.

    Args:
        seed_B: int64 seeds, one per image (`Batch.seed`).
        grid: units (h, w).
        mask_ratio: share of masked units, in (0, 1).

    Returns:
        bool (B, h, w), True = masked.
    """
    units = grid[0] * grid[1]
    rank_BN = hash_bits(seed_B, MASK_STREAM, units).argsort(dim=1).argsort(dim=1)
    return (rank_BN < num_masked(grid, mask_ratio)).view(-1, *grid)


def upsample_mask(mask_Bhw: Tensor, factor: int) -> Tensor:
    """Nearest upsampling: bool (B, h, w) -> (B, h * factor, w * factor)."""
    return mask_Bhw.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def visible_mean(images_BCHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """Mean colour of the visible pixels of each image, (B, C, 1, 1)."""
    visible_B1HW = (~mask_BHW).unsqueeze(1).to(images_BCHW.dtype)
    return (images_BCHW * visible_B1HW).sum((2, 3), keepdim=True) / visible_B1HW.sum((2, 3), keepdim=True)


def blurred(images_BCHW: Tensor, mask_BHW: Tensor, sigma: float) -> Tensor:
    """Gaussian average of the visible pixels around each pixel, (B, C, H, W): the smoothest guess of what is hidden.

    mask_BHW: True = masked pixels. sigma: width of the Gaussian in pixels. Autocast is left, since variances are made
    of these averages.
    """
    radius = int(3 * sigma)
    position = torch.arange(-radius, radius + 1, device=images_BCHW.device, dtype=torch.float32)
    kernel = torch.exp(-(position**2) / (2 * sigma**2))
    visible_B1HW = (~mask_BHW).unsqueeze(1).float()
    stacked = torch.cat([images_BCHW.float() * visible_B1HW, visible_B1HW], dim=1)
    planes = stacked.flatten(0, 1).unsqueeze(1)
    with torch.autocast(images_BCHW.device.type, enabled=False):
        planes = torch.nn.functional.conv2d(planes, kernel.view(1, 1, -1, 1), padding=(radius, 0))
        planes = torch.nn.functional.conv2d(planes, kernel.view(1, 1, 1, -1), padding=(0, radius))
    summed = planes.view(stacked.shape)
    colour, weight = summed[:, :-1], summed[:, -1:]
    # far from any visible pixel the weights underflow: the mean visible colour stands in
    return torch.where(weight > 1e-6, colour / weight.clamp_min(1e-6), visible_mean(images_BCHW.float(), mask_BHW))
