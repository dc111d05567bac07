import numpy as np
import pytest
import torch
from made_images import make_pixels

from data.augment import ClassifyAugment, center_crop, crop_box, random_resized_crop, resize
from data.normalise import FLIP_STREAM, MASK_STREAM, hash_bits, normalise, random_flip
from data.order import sample_seeds

SEEDS = sample_seeds(0, 0, np.arange(4000))
GOLDEN_BITS = [
    [2074736949624574745, 1209351930812095912],
    [3675368173943387859, 3297476776963034161],
    [2727220399901000045, 2553996405432305267],
]


def test_crop_boxes_lie_inside_and_cover_the_asked_area():
    areas, ratios = [], []
    for seed in SEEDS[:1000].tolist():
        top, left, h, w = crop_box(300, 400, seed, (0.67, 1.0), (3 / 4, 4 / 3))
        assert 0 <= top <= 300 - h
        assert 0 <= left <= 400 - w
        areas.append(h * w / 120_000)
        ratios.append(w / h)
    assert min(areas) > 0.66
    assert 0.74 < min(ratios) < max(ratios) < 1.34


def test_a_box_that_never_fits_falls_back_to_the_centre():
    assert crop_box(100, 1000, 1, (1.0, 1.0), (1.0, 1.0)) == (0, 450, 100, 100)


def test_random_resized_crop_is_a_function_of_the_seed():
    image = make_pixels(0, 60, 80)
    one = random_resized_crop(image, (32, 48), 5)
    assert one.shape == (32, 48, 3)
    assert one.dtype == torch.uint8
    assert torch.equal(one, random_resized_crop(torch.from_numpy(image), (32, 48), 5))
    assert not torch.equal(one, random_resized_crop(image, (32, 48), 6))


def test_resize_is_antialiased():
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    ours = resize(image, (50, 60)).numpy().astype(int)
    reference = np.asarray(Image.fromarray(image).resize((60, 50), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - reference).max() <= 1


@pytest.mark.parametrize("shape", [(100, 60), (60, 100), (7, 300), (32, 32)])
def test_center_crop_shapes(shape):
    assert center_crop(make_pixels(0, *shape), (32, 32)).shape == (32, 32, 3)
    assert center_crop(make_pixels(0, *shape), (16, 40), crop_ratio=1.0).shape == (16, 40, 3)


def test_classify_augment_uses_the_seed_only_and_leaves_the_generator_alone():
    image, augment = make_pixels(0, 60, 80), ClassifyAugment((32, 32))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = augment(image, 7)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(one, augment(image, 7))
    assert len({augment(image, seed).sum().item() for seed in range(10)}) > 5
    assert one.shape == (32, 32, 3)
    assert one.dtype == torch.uint8


def test_normalise_is_the_formula():
    image = torch.from_numpy(np.stack([make_pixels(n) for n in range(2)]))
    out = normalise(image, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    assert out.shape == (2, 3, 48, 64)
    assert out.dtype == torch.float32
    assert out[1, 2, 5, 6].item() == pytest.approx((image[1, 5, 6, 2].item() / 255 - 0.3) / 0.4, rel=1e-5)


def test_flip_is_decided_by_the_seed_and_fair():
    seeds = torch.from_numpy(SEEDS)
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 1, 6, 1).expand(len(seeds), 1, 6, 1)
    out = random_flip(image, seeds)
    flipped = out[:, 0, 0, 0] == 5
    assert 0.46 < flipped.float().mean() < 0.54
    assert torch.equal(out[flipped][0, 0, :, 0], torch.arange(5, -1, -1, dtype=torch.uint8))
    assert torch.equal(random_flip(image[:7], seeds[:7]), out[:7])


def test_hash_bits_are_uniform_independent_and_exact():
    seeds = torch.from_numpy(SEEDS)
    bits = hash_bits(seeds, MASK_STREAM, 36)
    assert bits.shape == (4000, 36)
    assert bits.min() >= 0
    assert int(bits.max()) < 2**62
    assert len(bits.unique()) == bits.numel()
    unit = bits.double() / 2**62
    assert abs(unit.mean().item() - 0.5) < 0.003
    assert torch.corrcoef(unit.T).fill_diagonal_(0).abs().max() < 0.08
    ones = torch.stack([(bits >> n) & 1 for n in range(62)]).double().mean((1, 2))
    assert (ones - 0.5).abs().max() < 0.01
    assert not torch.equal(bits, hash_bits(seeds, FLIP_STREAM, 36))
    assert torch.equal(hash_bits(seeds, MASK_STREAM, 10), bits[:, :10])
    assert hash_bits(torch.tensor([0, 1, 2**63 - 1]), 1, 2).tolist() == GOLDEN_BITS
    # Neighbouring seeds are the hard case for a hash.
    near = hash_bits(torch.arange(4000), FLIP_STREAM, 1)[:, 0] & 1
    assert 0.46 < near.double().mean() < 0.54
