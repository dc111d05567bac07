"""Views with masks: a pixel and its class stay together, whatever the scale, crop, flip and padding."""

import numpy as np
import pytest
import torch
from made_images import make_pixels

from data.codecs.targets import IGNORED
from data.loading.dense import ScaledCrop, Whole
from data.loading.normalise import flips

SEEDS = range(40)


def checked(side=40):
    """Squares of 20 px, 30 or 60 bright by their class, so that either tells the other."""
    rows, columns = np.indices((2 * side, 3 * side)) // 20
    mask = ((rows + columns) % 2).astype(np.uint8)
    image = (60 * mask + 60)[..., None].repeat(3, axis=2).astype(np.uint8)
    return image, mask


@pytest.mark.parametrize("fit", [False, True])
def test_pixels_keep_their_class(fit):
    image, mask = checked()
    view = ScaledCrop((48, 64), fit=fit, jitter=0.0)
    padded = 0
    for seed in SEEDS:
        crop, seen = view(image, mask, seed)
        assert crop.shape == (48, 64, 3)
        assert crop.dtype == seen.dtype == torch.uint8
        assert seen.shape == (48, 64)
        inside = seen != IGNORED
        padded += int((~inside).any())
        assert (crop[~inside] == 127).all()
        wrong = (crop[..., 0] > 90) != seen.bool()
        assert wrong[inside].float().mean() < 0.1  # at the edges of squares, which resizing mixes
    assert padded > 5


def test_scale_one_is_the_image_itself_or_the_resolution():
    image = make_pixels(0, 48, 64)
    crop, seen = ScaledCrop((48, 64), (1.0, 1.0), flip=False, jitter=0.0)(image, np.zeros((48, 64), np.uint8), 3)
    assert np.array_equal(crop, image)
    assert not seen.any()
    fitted, _ = ScaledCrop((24, 64), (1.0, 1.0), fit=True, flip=False, jitter=0.0)(image, None, 3)
    whole, _ = Whole((24, 64))(image, None, 3)
    assert (fitted.int() - whole.int()).abs().float().mean() < 6  # bilinear there, bicubic here


def test_a_view_is_a_function_of_the_seed():
    image, mask = checked()
    image[::3] = make_pixels(1, *image.shape[:2])[::3]
    view = ScaledCrop((32, 32), jitter=1.0)
    assert all(torch.equal(a, b) for a, b in zip(view(image, mask, 7), view(image, mask, 7), strict=True))
    first = {view(image, mask, seed)[0].numpy().tobytes() for seed in SEEDS}
    assert len(first) == len(SEEDS)


def test_half_are_mirrored_with_their_masks():
    image, mask = checked()
    mask[:, :60], mask[:, 60:] = 0, 1
    view = ScaledCrop((80, 120), (1.0, 1.0), jitter=0.0)
    left = [int(view(image, mask, seed)[1][0, 0]) for seed in SEEDS]
    assert left == [int(flips(seed)) for seed in SEEDS]
    assert 5 < sum(left) < 35


def test_crops_of_one_class_are_drawn_again():
    image = make_pixels(0, 100, 100)
    mask = np.zeros((100, 100), np.uint8)
    mask[40:60, 40:60] = 1
    shares = {}
    for most in (1.0, 0.75):
        view = ScaledCrop((24, 24), (1.0, 1.0), jitter=0.0, max_share=most)
        shares[most] = np.mean([float(view(image, mask, seed)[1].float().mean()) for seed in range(200)])
    assert shares[0.75] > 2.5 * shares[1.0]


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_changes_light_and_no_place(channels):
    image = make_pixels(0, 40, 40)[..., :channels]
    plain, _ = ScaledCrop((32, 32), jitter=0.0)(image, None, 5)
    jittered, _ = ScaledCrop((32, 32), jitter=1.0)(image, None, 5)
    assert not torch.equal(plain, jittered)
    together = np.corrcoef(plain.flatten().numpy(), jittered.flatten().numpy())[0, 1]
    assert together > 0.6


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_images_of_16_bits_stay_so(channels):
    image = np.random.default_rng(0).integers(0, 65536, (20, 30, channels), dtype=np.uint16)
    crop, seen = ScaledCrop((32, 32), (0.5, 0.5), jitter=0.0)(image, np.ones((20, 30), np.uint8), 1)
    assert (crop.dtype, crop.shape) == (torch.uint16, (32, 32, channels))
    assert (crop.int()[seen == IGNORED] == 32767).all()


def test_evaluation_keeps_the_mask_of_the_image():
    image, mask = checked()
    native, resized = Whole(), Whole((32, 48))
    assert (native.native, resized.native) == (True, False)
    assert np.array_equal(native(image, mask, 0)[0], image)
    for view in (native, resized):
        assert np.array_equal(view(image, mask, 0)[1], mask)
    assert resized(image, mask, 0)[0].shape == (32, 48, 3)


def test_the_smallest_images():
    pixel = np.full((1, 1, 3), 9, np.uint8)
    for fit in (True, False):
        crop, seen = ScaledCrop((32, 48), fit=fit)(pixel, np.zeros((1, 1), np.uint8), 0)
        assert crop.shape == (32, 48, 3)
        assert (seen != IGNORED).any()
