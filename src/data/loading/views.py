"""Views: crops, colour and flips on the CPU, image by image, and what they do to the image's target.

Pure: the random numbers come from the sample's seed. Images are (H, W, C) of 8 or 16 bits and stay so. Every resize of
them is antialiased.
"""

import math
import random
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as pillow
from PIL import ImageOps
from torch import Tensor
from torch.nn.functional import interpolate, pad
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat, Mask, TVTensor

from data.codecs.bands import Pixels, peak
from data.codecs.targets import Boxes, Target
from data.loading.normalise import flips
from data.order.hashing import uniform

Image = Pixels | Tensor
Box = tuple[int, int, int, int]
"""Top, left, height, width."""
_TRIES = 10
_FILLS: dict[int, Any] = {1: 114, 3: (124, 116, 104)}
"""Channels -> the mean of ImageNet, in 0..255."""


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


def crop_box(height: int, width: int, seed: int, scale: tuple[float, float], ratio: tuple[float, float]) -> Box:
    """The box of a random resized crop.

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


def center_box(height: int, width: int, resolution: tuple[int, int], crop_ratio: float) -> Box:
    """The box of the evaluation crop: of the image resized so that it just covers resolution / crop_ratio, the centre;

    in source pixels, the same picture for less work than resizing the whole image.
    """
    factor = max(resolution[0] / crop_ratio / height, resolution[1] / crop_ratio / width)
    h = min(height, max(1, round(resolution[0] / factor)))
    w = min(width, max(1, round(resolution[1] / factor)))
    return (height - h) // 2, (width - w) // 2, h, w


def _cut(image_HWC: Image, box: Box, resolution: tuple[int, int], interpolation: str) -> Tensor:
    top, left, h, w = box
    return resize(_tensor(image_HWC)[top : top + h, left : left + w], resolution, interpolation)


Seen = Tensor | dict[str, Tensor] | None
"""A target after a view; of `Boxes` a dict: `boxes`, float32 (N, 4) as x1, y1, x2, y2 in pixels, `labels`, `crowd`, and
`masks` where there are some."""
View = Callable[[Any, Target | None, int], tuple[Tensor, Seen]]
"""Image (H, W, C) of 8 or 16 bits, target and the sample's seed to image (height, width, C) of as many, and target.

One with the attribute `native` = True gives images of any size, and batches of it are lists. One with the attribute
`shape` gives tensors of that shape in place of (height, width, C). One with a method `open` makes of the bytes of a
sample itself what it is called with: (bytes, most pixels of an image) to anything that has a `shape`, (height, width,
...), and a method `still` for the pixels to be shown; that may decode as late as the call, and both raise DecodeError
for what is damaged.
"""


def see(
    target: Target | None, size: tuple[int, int], box: Box, resolution: tuple[int, int], mirrored: bool = False
) -> Seen:
    """A target of an image of this `size` after its `box` was resized to `resolution`, and perhaps mirrored.

    Masks keep their classes (the nearest pixel's); boxes are cut to what is left of them, and objects of less than a
    pixel are dropped; what counts for the whole image stays as it is.
    """
    if target is None:
        return None
    if isinstance(target, Boxes):
        seen = unmoved(target)
        boxes = BoundingBoxes(seen["boxes"], format=BoundingBoxFormat.XYXY, canvas_size=size)
        moved, kept = functional.sanitize_bounding_boxes(_move(boxes, box, resolution, mirrored))
        seen = {"boxes": moved.as_subclass(Tensor), "labels": seen["labels"][kept], "crowd": seen["crowd"][kept]}
        if target.masks is not None:
            seen["masks"] = _move_masks(target.masks[kept.numpy()], box, resolution, mirrored)
        return seen
    return _move_masks(target[None], box, resolution, mirrored)[0] if target.ndim == 2 else torch.tensor(target)


def unmoved(target: Boxes) -> dict[str, Tensor]:
    """All objects of an image, where they are."""
    corners = np.concatenate([target.boxes[:, :2], target.boxes[:, :2] + target.boxes[:, 2:]], axis=1)
    seen = {"boxes": torch.from_numpy(corners), "labels": torch.tensor(target.labels)}
    seen["crowd"] = torch.tensor(target.crowd)
    return seen if target.masks is None else seen | {"masks": torch.tensor(target.masks)}


def _move_masks(masks_NHW: NDArray[Any], box: Box, resolution: tuple[int, int], mirrored: bool) -> Tensor:
    moved: Tensor = _move(Mask(torch.tensor(masks_NHW)), box, resolution, mirrored)
    return moved.as_subclass(Tensor)


def _move(what: TVTensor, box: Box, resolution: tuple[int, int], mirrored: bool) -> Any:
    moved = functional.resized_crop(what, *box, size=list(resolution))
    return functional.horizontal_flip(moved) if mirrored else moved


class RandomCrop:
    """A training view: a random part of the image, resized; then RandAugment, then a flip. Masks and boxes go along.

    Defaults are SimMIM's (github.com/microsoft/SimMIM, data_simmim.py). RandAugment is as `timm.data.create_transform`
    makes it for Swin: ImageNet's mean where an operation uncovers something, and no colour jitter, which timm leaves
    out beside it. timm flips first, which is the same: operations lean to the left as often as to the right.

    Args:
        resolution: (height, width) of the result.
        scale, ratio: see `crop_box`; scale (0.08, 1) is the ImageNet fine-tuning default.
        interpolation: see `resize`.
        randaug: timm's name of a RandAugment policy, for 1 or 3 channels of 8 bits; None is off.
        flip: mirror half of the images, those that `random_flip` would.
    """

    def __init__(
        self,
        resolution: tuple[int, int],
        scale: tuple[float, float] = (0.67, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        *,
        interpolation: str = "bilinear",
        randaug: str | None = None,
        flip: bool = False,
    ) -> None:
        self.resolution, self.scale, self.ratio = resolution, scale, ratio
        self.interpolation, self.flip = interpolation, flip
        self.policies: dict[int, Any] = {}
        if randaug is not None:
            self.policies = {channels: _policy(randaug, interpolation, fill) for channels, fill in _FILLS.items()}

    def __call__(self, image_HWC: Image, target: Target | None, seed: int) -> tuple[Tensor, Seen]:
        size = image_HWC.shape[0], image_HWC.shape[1]
        box = crop_box(*size, seed, self.scale, self.ratio)
        mirrored = self.flip and flips(seed)
        crop_HWC = self._colour(_cut(image_HWC, box, self.resolution, self.interpolation), seed)
        seen = see(target, size, box, self.resolution, mirrored)
        return (crop_HWC.flip(1) if mirrored else crop_HWC), seen

    def _colour(self, crop_HWC: Tensor, seed: int) -> Tensor:
        if not self.policies:
            return crop_HWC
        policy = self.policies[crop_HWC.shape[2]]
        # timm draws from the two global generators, which are borrowed and given back.
        before, before_numpy = random.getstate(), np.random.get_state()
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        try:
            image = policy(pillow.fromarray(crop_HWC.squeeze(2).numpy()))
        finally:
            random.setstate(before)
            np.random.set_state(before_numpy)
        return torch.from_numpy(np.array(image)).reshape(crop_HWC.shape)


def _policy(name: str, interpolation: str, fill: Any) -> Any:
    from timm.data import auto_augment

    options = {"img_mean": fill, "interpolation": pillow.Resampling[interpolation.upper()]}
    policy = auto_augment.rand_augment_transform(name, options)
    for operation in policy.ops:
        if operation.aug_fn is auto_augment.posterize:
            operation.aug_fn = _posterize
    return policy


def _posterize(image: pillow.Image, bits: int, **_: Any) -> pillow.Image:
    """timm's, which at full magnitude asks for 0 bits: black when the recipe was published, an error in Pillow 13."""
    return ImageOps.posterize(image, bits) if bits else pillow.new(image.mode, image.size)


class CenterCrop:
    """The view for evaluation. Masks and boxes go along; the seed is not used.

    Args:
        resolution: (height, width) of the result.
        crop_ratio: share of the picture's side that is kept, as timm's `crop_pct`.
        mode: as timm's `crop_mode`. center keeps the aspect, see `center_box`; squash bends the picture into the
            resolution, as the published 384-px evaluation does (`TEST.CROP False`).
        interpolation: bicubic or bilinear.
    """

    def __init__(
        self,
        resolution: tuple[int, int],
        crop_ratio: float,
        mode: Literal["center", "squash"] = "center",
        interpolation: Literal["bicubic", "bilinear"] = "bicubic",
    ) -> None:
        self.resolution, self.crop_ratio, self.mode = resolution, crop_ratio, mode
        self.interpolation = interpolation

    def __call__(self, image_HWC: Image, target: Target | None, seed: int) -> tuple[Tensor, Seen]:
        size = image_HWC.shape[0], image_HWC.shape[1]
        box = center_box(*size, size if self.mode == "squash" else self.resolution, self.crop_ratio)
        return _cut(image_HWC, box, self.resolution, self.interpolation), see(target, size, box, self.resolution)


def fitted(size: tuple[int, int], canvas: tuple[int, int], scale: float = 1.0) -> tuple[int, int]:
    """(height, width) of an image of `size` as large as it fits into the canvas, times `scale`."""
    factor = min(canvas[0] / size[0], canvas[1] / size[1]) * scale
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


class ScaleJitter:
    """A training view of objects: the whole image in another size, on one canvas for all.

    Large-scale jitter (arXiv 2012.07177, appendix): the image as it fits the canvas, times a random factor; of a larger
    one a random part, a smaller one is filled up below and to the right with mid grey. Then a flip of the picture.
    Boxes and masks go along; a label mask is not known here.

    Args:
        canvas: (height, width) of the result.
        scale: least and largest factor; the published ones are (0.1, 2).
    """

    def __init__(self, canvas: tuple[int, int], scale: tuple[float, float], *, flip: bool = True) -> None:
        self.canvas, self.scale, self.flip = canvas, scale, flip

    def __call__(self, image_HWC: Image, target: Target | None, seed: int) -> tuple[Tensor, Seen]:
        height, width = image_HWC.shape[0], image_HWC.shape[1]
        least, most = self.scale
        h, w = fitted((height, width), self.canvas, least + (most - least) * uniform(seed, 0))
        shown = min(h, self.canvas[0]), min(w, self.canvas[1])
        # the part of the image that is to be seen, in its own pixels: resizing all of it would be more work
        high, wide = max(1, round(height * shown[0] / h)), max(1, round(width * shown[1] / w))
        top, left = (int(uniform(seed, n) * (room + 1)) for n, room in ((1, height - high), (2, width - wide)))
        box, mirrored = (top, left, high, wide), self.flip and flips(seed)
        picture_HWC = _cut(image_HWC, box, shown, "bilinear")
        seen = see(target, (height, width), box, shown, mirrored)
        if isinstance(seen, dict) and "masks" in seen:
            seen["masks"] = pad(seen["masks"], (0, self.canvas[1] - shown[1], 0, self.canvas[0] - shown[0]))
        return _filled_up(picture_HWC.flip(1) if mirrored else picture_HWC, self.canvas), seen


class Letterbox:
    """The view for evaluation of objects: the whole image as large as it fits, filled up below and to the right with
    mid grey. Boxes and masks stay as they are in the image, where answers are judged; the seed is not used.
    """

    def __init__(self, canvas: tuple[int, int]) -> None:
        self.canvas = canvas

    def __call__(self, image_HWC: Image, target: Target | None, seed: int) -> tuple[Tensor, Seen]:
        size = image_HWC.shape[0], image_HWC.shape[1]
        picture_HWC = resize(image_HWC, fitted(size, self.canvas))
        seen = unmoved(target) if isinstance(target, Boxes) else see(target, size, (0, 0, *size), size)
        return _filled_up(picture_HWC, self.canvas), seen


def _filled_up(picture_HWC: Tensor, canvas: tuple[int, int]) -> Tensor:
    grey = 1 << 15 if picture_HWC.dtype == torch.uint16 else 1 << 7
    filled = np.full((*canvas, picture_HWC.shape[2]), grey, picture_HWC.numpy().dtype)  # torch fills no uint16
    filled[: picture_HWC.shape[0], : picture_HWC.shape[1]] = picture_HWC.numpy()
    return torch.from_numpy(filled)
