import numpy as np
import pytest
import torch
from made_images import make_pixels
from torchvision.transforms import RandomResizedCrop

from data.loading.normalise import FLIP_STREAM, MASK_STREAM, hash_bits, normalise, random_flip
from data.loading.views import ClassifyAugment, center_crop, crop_box, random_resized_crop, resize
from data.order.hashing import sample_seeds

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


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((375, 500), (0.67, 1.0), (3 / 4, 4 / 3)),
        ((256, 256), (0.08, 1.0), (3 / 4, 4 / 3)),
        ((90, 400), (0.3, 1.0), (3 / 4, 4 / 3)),  # where many draws do not fit
    ],
)
def test_crop_boxes_are_distributed_as_torchvisions(size, scale, ratio):
    """Two samples of 2000: the Kolmogorov-Smirnov distance of one in a thousand is 1.95 sqrt(2 / 2000) = 0.062."""
    ours = np.array([crop_box(*size, seed, scale, ratio) for seed in SEEDS[:2000].tolist()])
    torch.manual_seed(0)
    blank = torch.empty(1, *size)
    theirs = np.array([RandomResizedCrop.get_params(blank, scale, ratio) for _ in range(2000)])

    def views(box):
        top, left, h, w = box.T.astype(float)
        room = (size[0] - h).clip(1), (size[1] - w).clip(1)
        return h, w, h * w, w / h, top, left, top / room[0], left / room[1]

    for one, two in zip(views(ours), views(theirs), strict=True):
        grid = np.unique(np.concatenate([one, two]))
        shares = [np.searchsorted(np.sort(values), grid, "right") / len(values) for values in (one, two)]
        assert np.abs(shares[0] - shares[1]).max() < 0.062


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("shape", "resolution", "crop_ratio"),
    [
        ((300, 400), (96, 96), 0.875),
        ((331, 257), (96, 64), 0.75),
        ((200, 120), (64, 64), 1.0),
        ((60, 80), (96, 96), 0.9),
    ],
)
def test_center_crop_has_the_pixels_of_pillow(shape, resolution, crop_ratio, interpolation):
    """Pillow takes the box out of the whole image, so at its border it sees what lies outside; not compared there."""
    from PIL import Image

    image = make_pixels(3, *shape)
    factor = max(resolution[0] / crop_ratio / shape[0], resolution[1] / crop_ratio / shape[1])
    h, w = (min(side, round(wanted / factor)) for side, wanted in zip(shape, resolution, strict=True))
    top, left = (shape[0] - h) // 2, (shape[1] - w) // 2
    reference = Image.fromarray(image).resize(
        resolution[::-1], Image.Resampling[interpolation.upper()], box=(left, top, left + w, top + h)
    )
    ours = center_crop(image, resolution, crop_ratio, interpolation).numpy().astype(float)
    error = ((ours - np.asarray(reference))[4:-4, 4:-4] ** 2).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) >= 50


def test_sixteen_bits_are_flipped_and_normalised_as_one_by_one():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 2**16, (6, 5, 7, 4), dtype=np.uint16)
    pixels[0, 0, 0] = 0, 2**15 - 1, 2**15, 2**16 - 1  # on both sides of the sign bit
    seeds = torch.from_numpy(SEEDS[:6])
    flips = (hash_bits(seeds, FLIP_STREAM, 1) & 1)[:, 0].tolist()
    assert set(flips) == {0, 1}
    mean, std = (0.1, 0.2, 0.3, 0.4), (0.5, 0.4, 0.3, 0.2)
    expected = np.empty((6, 4, 5, 7))
    for n, y, x, c in np.ndindex(6, 5, 7, 4):
        value = int(pixels[n, y, 6 - x if flips[n] else x, c])
        expected[n, c, y, x] = (value / 65535 - mean[c]) / std[c]
    flipped = random_flip(torch.from_numpy(pixels), seeds)
    found = normalise(flipped, mean, std)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)
    plain = normalise(torch.from_numpy(pixels), mean, std).numpy()
    np.testing.assert_allclose(plain[flips.index(1)], expected[flips.index(1)][:, :, ::-1], rtol=1e-5, atol=1e-6)
