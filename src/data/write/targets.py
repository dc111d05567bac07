"""Targets follow their images: checked, and shrunk with them."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.codecs.encode import Encoded
from data.codecs.targets import Boxes, Target, TargetKind, checked_target, encode_target


def fitted(kind: TargetKind, data: bytes, classes: int, image: Encoded) -> bytes:
    """The member for an image as it is stored, from that of the whole, upright image; raises as `checked_target`."""
    target = checked_target(kind, data, classes, image.full_shape)
    if image.shape == image.full_shape or kind in ("labels", "value"):
        return data
    return encode_target(kind, _shrunk(target, image), classes)


def _shrunk(target: Target, image: Encoded) -> Target:
    if not isinstance(target, Boxes):
        return _nearest(target.astype(np.uint8), image.shape)
    factors = np.divide(image.shape, image.full_shape)[[1, 0, 1, 0]]
    masks = target.masks
    if masks is not None:
        masks = np.array([_nearest(mask.astype(np.uint8), image.shape) for mask in masks], np.bool_)
        masks = masks.reshape(-1, *image.shape)
    return replace(target, boxes=(target.boxes * factors).astype(np.float32), masks=masks)


def _nearest(mask_HW: NDArray[np.uint8], shape: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(mask_HW).resize(shape[::-1], Image.Resampling.NEAREST))
