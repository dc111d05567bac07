"""Crops and colour on the CPU, image by image. Pure: the random numbers come from the sample's seed.

Images are (H, W, C) of 8 or 16 bits and stay so. Every resize is antialiased. Flip and normalise happen on the device.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from data.codecs.bands import Pixels, peak
from data.order.hashing import uniform

Image = Pixels | Tensor
_TRIES = 10


def _tensor(image_HWC: Image) -> Tensor:
    return image_HWC if isinstance(image_HWC, Tensor) else torch.from_numpy(image_HWC)


def resize(image_HWC: Image, resolution: tuple[int, int], interpolation: str = "bilinear") -> Tensor:
    """Antialiased resize of (H, W, C), uint8 or uint16, to `resolution` = (height, width); "bilinear" or "bicubic"."""
    image = _tensor(image_HWC)
    if tuple(image.shape[:2]) == tuple(resolution):
        return image.contiguous()
    # The batch axis first: only then torch sees memory in channels_last order and keeps it, at half the time.
    image_1CHW = image[None].permute(0, 3, 1, 2)
    if image.dtype == torch.uint16:
        image_1CHW = image_1CHW.to(torch.float32)  # torch has no kernel for it; 24 bits of mantissa hold 16
    out = interpolate(image_1CHW, resolution, mode=interpolation, antialias=True, align_corners=False)
    if image.dtype == torch.uint16:
        out = out.round_().clamp_(0, peak(16)).to(torch.int32).to(torch.uint16)
    return out[0].permute(1, 2, 0).contiguous()


def crop_box(
    height: int, width: int, seed: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """The box (top, left, height, width) of a random resized crop.

    `scale` is the share of the area, `ratio` width / height, drawn log-uniformly, as in torchvision's
    RandomResizedCrop; when ten draws do not fit, the largest centre box of a legal ratio.
    """
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for first in range(0, 4 * _TRIES, 4):
        area, shape, down, right = (uniform(seed, first + n) for n in range(4))
        target = height * width * (scale[0] + area * (scale[1] - scale[0]))
        aspect = math.exp(log_ratio[0] + shape * (log_ratio[1] - log_ratio[0]))
        w, h = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(down * (height - h + 1)), int(right * (width - w + 1)), h, w
    w, h = width, height
    if width / height < ratio[0]:
        h = min(height, max(1, round(width / ratio[0])))
    elif width / height > ratio[1]:
        w = min(width, max(1, round(height * ratio[1])))
    return (height - h) // 2, (width - w) // 2, h, w


def random_resized_crop(
    image_HWC: Image,
    resolution: tuple[int, int],
    seed: int,
    scale: tuple[float, float] = (0.67, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = "bilinear",
) -> Tensor:
    """A random part of the image, resized. Defaults are SimMIM's (github.com/microsoft/SimMIM, data_simmim.py).

    Args:
        image_HWC: uint8 or uint16 (H, W, C), array or tensor.
        resolution: (height, width) of the result.
        seed: the sample's seed; the same seed gives the same crop.
        scale, ratio, interpolation: see `crop_box` and `resize`.

    Returns:
        (height, width, C), of the same type.
    """
    top, left, h, w = crop_box(image_HWC.shape[0], image_HWC.shape[1], seed, scale, ratio)
    return resize(_tensor(image_HWC)[top : top + h, left : left + w], resolution, interpolation)


def center_crop(
    image_HWC: Image, resolution: tuple[int, int], crop_ratio: float = 0.875, interpolation: str = "bicubic"
) -> Tensor:
    """The evaluation crop: resize so that the image just covers resolution / crop_ratio, then cut out the centre.

    Returns:
        (height, width, C), of the same type.
    """
    height, width = resolution
    factor = max(height / crop_ratio / image_HWC.shape[0], width / crop_ratio / image_HWC.shape[1])
    # Crop first, in source pixels: the same picture for less work than resizing the whole image.
    h = min(image_HWC.shape[0], max(1, round(height / factor)))
    w = min(image_HWC.shape[1], max(1, round(width / factor)))
    top, left = (image_HWC.shape[0] - h) // 2, (image_HWC.shape[1] - w) // 2
    return resize(_tensor(image_HWC)[top : top + h, left : left + w], resolution, interpolation)


class ClassifyAugment:
    """Training augmentation for classification: random resized crop, then RandAugment.

    Args:
        resolution: (height, width) of the result.
        scale, ratio: of the crop; (0.08, 1) is the ImageNet fine-tuning default.
        num_ops, magnitude: RandAugment (Cubuk et al. 2020), magnitude 0..30; num_ops=0 switches it off.
    """

    def __init__(
        self,
        resolution: tuple[int, int],
        *,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        num_ops: int = 2,
        magnitude: int = 9,
        interpolation: str = "bicubic",
    ) -> None:
        self.resolution, self.scale, self.ratio, self.interpolation = resolution, scale, ratio, interpolation
        self.rand_augment = v2.RandAugment(num_ops, magnitude) if num_ops else None

    def __call__(self, image_HWC: Image, seed: int) -> Tensor:
        """uint8 (H, W, C) to uint8 (height, width, C); the result depends on the image and the seed only."""
        crop_HWC = random_resized_crop(image_HWC, self.resolution, seed, self.scale, self.ratio, self.interpolation)
        if self.rand_augment is None:
            return crop_HWC
        # torchvision draws from torch's CPU generator. torch.manual_seed would also touch the GPU's, so only that one
        # is borrowed and given back.
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(seed)
        try:
            out_CHW: Tensor = self.rand_augment(crop_HWC.permute(2, 0, 1))
        finally:
            generator.set_state(before)
        return out_CHW.permute(1, 2, 0).contiguous()


Augment = Callable[[Image, int], Tensor]
"""(H, W, C) of 8 or 16 bits and the sample's seed to (height, width, C) of as many."""


class RandomCrop:
    """The augmentation of pretraining: `random_resized_crop` with fixed settings."""

    def __init__(self, resolution: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]) -> None:
        self.resolution, self.scale, self.ratio = resolution, scale, ratio

    def __call__(self, image_HWC: Image, seed: int) -> Tensor:
        return random_resized_crop(image_HWC, self.resolution, seed, self.scale, self.ratio)


class CenterCrop:
    """The view for evaluation: `center_crop`; the seed is not used."""

    def __init__(self, resolution: tuple[int, int], crop_ratio: float) -> None:
        self.resolution, self.crop_ratio = resolution, crop_ratio

    def __call__(self, image_HWC: Image, seed: int) -> Tensor:
        return center_crop(image_HWC, self.resolution, self.crop_ratio)
