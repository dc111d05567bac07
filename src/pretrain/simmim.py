"""SimMIM in one file (arXiv 2111.09886; SwinV2 variant: microsoft/Swin-Transformer models/simmim.py).

Shapes: B batch, C image channels, H W pixels, h w mask units or token grid, D encoder width. Mask: True = masked.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.masking import blurred, mask_grid, random_mask, upsample_mask, visible_mean
from swinmim.models.errors import ModelError
from swinmim.models.swinv2 import SwinV2

Target = Literal["raw", "local_norm"]
LOCAL_NORM_WINDOW = 47
"""Side in pixels of the window of the normalised target (configs/simmim, NORM_TARGET.PATCH_SIZE)."""


class SimMIM(nn.Module):
    """Predict the pixels of masked units from the visible ones with an L1 loss.

    Args:
        encoder: SwinV2; its stride sets the pixel shuffle of the decoder.
        mask_unit: side of a masked square in pixels; a multiple of the encoder's patch size.
        mask_ratio: share of masked units, in (0, 1).
        target: "raw" pixels (SimMIM) or "local_norm", each pixel normalised by the 47-px window around it (SwinV2).

    Raises ModelError: the mask unit fits neither the patch size nor the resolution, the ratio is out of range, or the
    encoder is padded to a resolution of no whole strides.
    """

    def __init__(
        self, encoder: SwinV2, *, mask_unit: int = 32, mask_ratio: float = 0.6, target: Target = "raw"
    ) -> None:
        super().__init__()
        patch_size = encoder.architecture.patch_size
        if mask_unit % patch_size:
            raise ModelError(f"mim.mask_unit must be a multiple of the patch size {patch_size}, got {mask_unit}.")
        if not 0 < mask_ratio < 1:
            raise ModelError(f"mim.mask_ratio must lie between 0 and 1, got {mask_ratio}.")
        mask_grid(encoder.resolution, mask_unit)
        if any(side % encoder.stride for side in encoder.resolution):
            raise ModelError(
                f"The decoder needs a resolution of whole strides ({encoder.stride}), got {encoder.resolution}."
            )
        self.encoder = encoder
        self.mask_unit = mask_unit
        self.mask_ratio = mask_ratio
        self.target: Target = target
        self.mask_token = nn.Parameter(torch.zeros(encoder.architecture.embed_dim))
        self.decoder = nn.Sequential(
            nn.Conv2d(encoder.num_features, encoder.stride**2 * encoder.in_chans, kernel_size=1),
            nn.PixelShuffle(encoder.stride),
        )
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self, images_BCHW: Tensor, mask_Bhw: Tensor, target_BCHW: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """One step of the method.

        Args:
            images_BCHW: normalised images at the encoder's resolution.
            mask_Bhw: bool (B, H / mask_unit, W / mask_unit), True = masked.
            target_BCHW: `make_target(images_BCHW, target)`, where it is at hand.

        Returns:
            Scalar loss, and the prediction (B, C, H, W) in the space of the target, float32.
        """
        tokens_BhwD = self.forward_encoder(images_BCHW, mask_Bhw)
        prediction_BCHW = self.forward_decoder(tokens_BhwD)
        if target_BCHW is None:
            target_BCHW = make_target(images_BCHW, self.target)
        return self.forward_loss(target_BCHW, prediction_BCHW, mask_Bhw), prediction_BCHW

    def forward_encoder(self, images_BCHW: Tensor, mask_Bhw: Tensor) -> Tensor:
        """Images with mask tokens after the patch embedding -> last feature map after the norm (B, h, w, D)."""
        tokens_BhwD = self.encoder.embed(images_BCHW)
        mask_Bhw1 = upsample_mask(mask_Bhw, self.mask_unit // self.encoder.architecture.patch_size).unsqueeze(-1)
        tokens_BhwD = torch.where(mask_Bhw1, self.mask_token.to(tokens_BhwD.dtype), tokens_BhwD)
        return self.encoder.norm(self.encoder.encode(tokens_BhwD)[-1])  # type: ignore[no-any-return]

    def forward_decoder(self, tokens_BhwD: Tensor) -> Tensor:
        """(B, h, w, D) -> prediction (B, C, H, W), float32: one linear layer per token, then pixel shuffle."""
        return self.decoder(tokens_BhwD.permute(0, 3, 1, 2)).float()  # type: ignore[no-any-return]

    def forward_loss(self, target_BCHW: Tensor, prediction_BCHW: Tensor, mask_Bhw: Tensor) -> Tensor:
        """Mean absolute error over the masked pixels, computed in float32."""
        mask_B1HW = upsample_mask(mask_Bhw, self.mask_unit).unsqueeze(1)
        error_BCHW = (target_BCHW - prediction_BCHW.float()).abs() * mask_B1HW
        return error_BCHW.sum() / (mask_B1HW.sum() + 1e-5) / target_BCHW.shape[1]

    def to_pixels(self, prediction_BCHW: Tensor, images_BCHW: Tensor, mask_BHW: Tensor) -> Tensor:
        """Prediction back in the space of the images, by what the visible pixels (mask False) tell of them alone."""
        match self.target:
            case "raw":
                return prediction_BCHW
            case "local_norm":
                mean, std = visible_statistics(images_BCHW, mask_BHW)
                return prediction_BCHW * std + mean

    def guesses(self, images_BCHW: Tensor, mask_BHW: Tensor) -> tuple[Tensor, Tensor]:
        """What can be said of the target without a network, from the visible pixels (mask False) alone.

        Returns:
            A constant (the mean visible colour; with "local_norm" zero, which is the local mean that it subtracts), and
            the blurred visible pixels in the space of the target.
        """
        visible_BCHW = images_BCHW.float()
        if self.target == "local_norm":
            mean, std = visible_statistics(images_BCHW, mask_BHW)
            visible_BCHW, constant_BCHW = (visible_BCHW - mean) / std, torch.zeros_like(mean)
        else:
            constant_BCHW = visible_mean(visible_BCHW, mask_BHW).expand_as(visible_BCHW)
        return constant_BCHW, blurred(visible_BCHW, mask_BHW, sigma=self.mask_unit / 2)

    def draw_mask(self, seed_B: Tensor) -> Tensor:
        """Random masks for the encoder's resolution from per-sample seeds, bool (B, H / mask_unit, W / mask_unit)."""
        return random_mask(seed_B, mask_grid(self.encoder.resolution, self.mask_unit), self.mask_ratio)


def make_target(images_BCHW: Tensor, target: Target) -> Tensor:
    """Normalised images -> what the decoder must predict, (B, C, H, W) float32."""
    match target:
        case "raw":
            return images_BCHW.float()
        case "local_norm":
            mean, std = local_statistics(images_BCHW)
            return (images_BCHW.float() - mean) / std


def local_statistics(images_BCHW: Tensor, window: int = LOCAL_NORM_WINDOW) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each pixel's window, per channel, without the padding, unbiased, in float32.

    Autocast is left: the variance is a difference of squares and bf16 loses all of it on flat images.

    Returns:
        mean and std, each (B, C, H, W); std = sqrt(max(variance, 0) + 1e-6).
    """
    with torch.autocast(images_BCHW.device.type, enabled=False):
        images_BCHW = images_BCHW.float()
        mean = _box_mean(images_BCHW, window)
        square_mean = _box_mean(images_BCHW**2, window)
        height, width = images_BCHW.shape[2:]
        count_HW = torch.outer(
            _window_count(height, window, images_BCHW.device), _window_count(width, window, images_BCHW.device)
        )
        variance = (square_mean - mean**2) * (count_HW / (count_HW - 1))
        return mean, (variance.clamp_min(0.0) + 1e-6).sqrt()


def visible_statistics(images_BCHW: Tensor, mask_BHW: Tensor, window: int = LOCAL_NORM_WINDOW) -> tuple[Tensor, Tensor]:
    """`local_statistics` as far as the visible pixels (mask False) tell them, by a Gaussian as wide as the window."""
    images_BCHW = images_BCHW.float()
    moments = blurred(torch.cat([images_BCHW, images_BCHW**2], dim=1), mask_BHW, sigma=window / math.sqrt(12))
    mean, square_mean = moments.chunk(2, dim=1)
    return mean, ((square_mean - mean**2).clamp_min(0.0) + 1e-6).sqrt()


def _box_mean(images_BCHW: Tensor, window: int) -> Tensor:
    """Mean over the existing pixels of each window: separable, since the counts are a product of row and column."""
    half = window // 2
    columns = F.avg_pool2d(images_BCHW, (window, 1), stride=1, padding=(half, 0), count_include_pad=False)
    return F.avg_pool2d(columns, (1, window), stride=1, padding=(0, half), count_include_pad=False)


def _window_count(side: int, window: int, device: torch.device) -> Tensor:
    """Existing pixels of the window around each position of one axis, (side,)."""
    position = torch.arange(side, device=device)
    return ((position + window // 2).clamp_max(side - 1) - (position - window // 2).clamp_min(0) + 1).float()
