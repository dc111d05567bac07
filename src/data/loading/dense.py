"""Views of tasks that answer for each pixel: parts of images at random scales, and whole images with their own masks.

Pure, as all views: the random numbers come from the sample's seed.
"""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import Image as ImageTensor
from torchvision.tv_tensors import Mask

from data.codecs.bands import peak
from data.codecs.targets import IGNORED, Target
from data.loading.normalise import flips
from data.loading.views import Image, Seen, resize
from data.order.hashing import key, uniform

_TRIES = 10
_STRENGTHS: tuple[tuple[Callable[..., Tensor], float, float], ...] = (
    (functional.adjust_brightness, 1 - 32 / 255, 1 + 32 / 255),
    (functional.adjust_contrast, 0.5, 1.5),
    (functional.adjust_saturation, 0.5, 1.5),
    (functional.adjust_hue, -0.05, 0.05),
)
"""Each with its least and largest strength: SSD's (arXiv 1512.02325), as in torchvision's RandomPhotometricDistort."""


class ScaledCrop:
    """A training view for masks: the image at a random scale, a crop of it, mirrored, with other light and colours.

    What lies beyond the image is grey, and ignored in the mask. As published for UPerNet, a crop in which one class
    covers most is drawn again.

    Args:
        resolution: (height, width) of the result.
        scale: least and largest, drawn log-uniformly. 1 is the image's own size, or with `fit` the resolution.
        fit: scale 1 bends the image into the resolution.
        flip: mirror half of the images.
        jitter: probability of each change of brightness, contrast, saturation and hue; for 1 or 3 channels of 8 bits.
        max_share: of a crop that one class may cover, unless ten draws do not help.
    """

    def __init__(
        self,
        resolution: tuple[int, int],
        scale: tuple[float, float] = (0.5, 2.0),
        *,
        fit: bool = False,
        flip: bool = True,
        jitter: float = 0.5,
        max_share: float = 0.75,
    ) -> None:
        self.resolution, self.scale, self.fit = resolution, scale, fit
        self.flip, self.jitter, self.max_share = flip, jitter, max_share

    def __call__(self, image_HWC: Image, target: Target | None, seed: int) -> tuple[Tensor, Seen]:
        size = image_HWC.shape[0], image_HWC.shape[1]
        draws = key("dense", seed) >> 1
        factor = self.scale[0] * (self.scale[1] / self.scale[0]) ** uniform(draws, 0)
        factors = [factor * (to / side if self.fit else 1) for side, to in zip(size, self.resolution, strict=True)]
        extents = [_extent(*axis) for axis in zip(size, self.resolution, factors, strict=True)]
        mask = cast(NDArray[np.uint8] | None, target)
        for attempt in range(_TRIES):
            places = [uniform(draws, 1 + 2 * attempt), uniform(draws, 2 + 2 * attempt)]
            top, left = (int(u * (side - held + 1)) for u, side, (held, _) in zip(places, size, extents, strict=True))
            (height, out_height), (width, out_width) = extents
            if mask is None or _largest_share(mask[top : top + height, left : left + width]) <= self.max_share:
                break
        out = out_height, out_width
        mirrored = self.flip and flips(seed)
        crop_HWC = resize(image_HWC[top : top + height, left : left + width], out)
        crop_CHW = ImageTensor((crop_HWC.flip(1) if mirrored else crop_HWC).permute(2, 0, 1))
        seen = None if mask is None else _nearest(mask[top : top + height, left : left + width], out)
        seen = seen.flip(1) if mirrored and seen is not None else seen
        crop_CHW = ImageTensor(self._jittered(crop_CHW, draws))
        above, before = (int(u * (to - held)) for u, to, held in zip(places, self.resolution, out, strict=True))
        padding = [before, above, self.resolution[1] - out_width - before, self.resolution[0] - out_height - above]
        if any(padding):
            grey = peak(16 if crop_CHW.dtype == torch.uint16 else 8) // 2
            crop_CHW = ImageTensor(_padded(crop_CHW, padding, grey))
            if seen is not None:
                seen = _padded(Mask(seen), padding, IGNORED).as_subclass(Tensor)
        image = crop_CHW.as_subclass(Tensor).permute(1, 2, 0).contiguous()
        return image, seen

    def _jittered(self, image_CHW: Tensor, draws: int) -> Tensor:
        for number, (change, least, most) in enumerate(_STRENGTHS if self.jitter else (), start=1 + 2 * _TRIES):
            if uniform(draws, 2 * number) < self.jitter:
                image_CHW = change(image_CHW, least + (most - least) * uniform(draws, 2 * number + 1))
        return image_CHW


def _extent(side: int, to: int, factor: float) -> tuple[int, int]:
    """Of one axis: how many pixels of the image are taken, and how many they become, at most `to`."""
    taken = min(side, max(1, round(to / factor)))
    return taken, to if taken < side else min(to, max(1, round(side * factor)))


def _nearest(mask_HW: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    """The class under the centre of each pixel; torchvision takes that under its corner, up to half a pixel away."""
    return interpolate(torch.tensor(mask_HW)[None, None], size, mode="nearest-exact")[0, 0]


def _largest_share(mask_HW: NDArray[np.uint8]) -> float:
    """Of the pixels with a class, the share of the most frequent one; 0 where none has a class."""
    counts = np.bincount(mask_HW.ravel(), minlength=IGNORED + 1)[:IGNORED]
    return float(counts.max() / max(1, counts.sum()))


def _padded(image: Tensor, padding: list[int], fill: int) -> Tensor:
    if image.dtype == torch.uint16:  # torch has no kernel for it
        left, top, right, bottom = padding
        out = image.new_full((*image.shape[:-2], image.shape[-2] + top + bottom, image.shape[-1] + left + right), fill)
        out[..., top : out.shape[-2] - bottom, left : out.shape[-1] - right] = image
        return out
    padded: Tensor = functional.pad(image, padding, fill=fill)
    return padded


class Whole:
    """The view for evaluation on masks of the image's own size.

    resolution: what the image is bent into, bicubic; None leaves it as it is, and batches of it are lists.
    """

    def __init__(self, resolution: tuple[int, int] | None = None) -> None:
        self.resolution, self.native = resolution, resolution is None

    def __call__(self, image_HWC: Image, target: Target | None, seed: int) -> tuple[Tensor, Seen]:
        size = image_HWC.shape[0], image_HWC.shape[1]
        return resize(image_HWC, self.resolution or size, "bicubic"), None if target is None else torch.tensor(target)
