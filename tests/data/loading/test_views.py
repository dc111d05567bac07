import pickle
import random

import numpy as np
import pytest
import torch
from made_images import make_pixels
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision.transforms import RandomResizedCrop, v2
from torchvision.tv_tensors import BoundingBoxes, Mask
from torchvision.tv_tensors import Image as TVImage

from data.codecs.targets import Boxes
from data.loading.normalise import FLIP_STREAM, MASK_STREAM, flips, hash_bits, normalise, random_flip
from data.loading.views import (
    CenterCrop,
    Letterbox,
    RandomCrop,
    ScaleJitter,
    center_box,
    crop_box,
    fitted,
    resize,
    see,
)
from data.order.hashing import sample_seeds

SCALE = (0.08, 1.0)
PUBLISHED = "rand-m9-mstd0.5-inc1"
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
    view = RandomCrop((32, 48))
    one, none = view(image, None, 5)
    assert none is None
    assert one.shape == (32, 48, 3)
    assert one.dtype == torch.uint8
    assert torch.equal(one, view(torch.from_numpy(image), None, 5)[0])
    assert not torch.equal(one, view(image, None, 6)[0])


def test_resize_is_antialiased():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    ours = resize(image, (50, 60)).numpy().astype(int)
    reference = np.asarray(Image.fromarray(image).resize((60, 50), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours - reference).max() <= 1


@pytest.mark.parametrize("shape", [(100, 60), (60, 100), (7, 300), (32, 32)])
def test_center_crop_shapes(shape):
    assert CenterCrop((32, 32), 0.875)(make_pixels(0, *shape), None, 0)[0].shape == (32, 32, 3)
    assert CenterCrop((16, 40), 1.0)(make_pixels(0, *shape), None, 0)[0].shape == (16, 40, 3)


def test_randaugment_uses_the_seed_only_and_gives_the_generators_back():
    image, augment = make_pixels(0, 60, 80), RandomCrop((32, 32), SCALE, randaug=PUBLISHED)
    random.seed(1)
    np.random.seed(1)
    expected = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    one, _ = augment(image, None, 7)
    found = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
    assert found[0] == expected[0]
    np.testing.assert_equal(found[1], expected[1])
    assert torch.equal(found[2], expected[2])
    random.seed(2)
    np.random.seed(2)
    assert torch.equal(one, augment(image, None, 7)[0])
    assert torch.equal(one, pickle.loads(pickle.dumps(augment))(image, None, 7)[0])  # as a loader process has it
    assert len({augment(image, None, seed)[0].sum().item() for seed in range(10)}) > 5
    assert one.shape == (32, 32, 3)
    assert one.dtype == torch.uint8


def ks_distance(one, two):
    """Kolmogorov-Smirnov; two samples of n from one distribution exceed 1.95 sqrt(2 / n) once in a thousand."""
    grid = np.unique(np.concatenate([one, two]))
    shares = [np.searchsorted(np.sort(values), grid, "right") / len(values) for values in (one, two)]
    return np.abs(shares[0] - shares[1]).max()


def posterize(image, bits):
    """Of Pillow, as it was when the recipe was published: 0 bits are allowed."""
    return image.point([value & 0xFF << 8 - bits & 0xFF for value in range(256)] * len(image.getbands()))


@pytest.fixture
def published(monkeypatch):
    """timm's training transform as Microsoft's data/build.py asks for it: view, then colours, then bytes."""
    monkeypatch.setattr(ImageOps, "posterize", posterize)
    options = {"color_jitter": 0.4, "auto_augment": PUBLISHED, "interpolation": "bicubic", "use_prefetcher": True}
    return create_transform(48, is_training=True, separate=True, **options)


@pytest.mark.slow
def test_randaugment_is_timms_bit_for_bit(published):
    """With the same draws, the operation that keeps no bit among them."""
    _, colours, _ = published
    augment, black = RandomCrop((48, 48), interpolation="bicubic", randaug=PUBLISHED), 0
    assert [type(step).__name__ for step in colours.transforms] == ["RandAugment"]  # no colour jitter beside it
    for seed in SEEDS[:3000].tolist():
        crop = torch.from_numpy(make_pixels(seed % 7, 48, 48))
        random.seed(seed)
        np.random.seed(seed & 0xFFFFFFFF)
        expected = np.asarray(colours(Image.fromarray(crop.numpy())))
        found = augment._colour(crop, seed).numpy()
        assert np.array_equal(found, expected), seed
        black += not found.any()
    assert 0 < black < 30


@pytest.mark.slow
def test_views_of_classification_have_the_statistics_of_timms_transform(published):
    """Crop, flip and colours together; ours draw otherwise, so distributions are compared, 1000 views each."""
    view, colours, to_bytes = published
    image = make_pixels(0, 60, 80)
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    theirs = torch.stack([to_bytes(colours(view(Image.fromarray(image)))) for _ in range(1000)])
    augment = RandomCrop((48, 48), SCALE, interpolation="bicubic", randaug=PUBLISHED, flip=True)
    ours = torch.stack([augment(image, None, seed)[0].permute(2, 0, 1) for seed in SEEDS[:1000].tolist()])
    plain = RandomCrop((48, 48), SCALE, interpolation="bicubic", flip=True)
    unlike = torch.stack([plain(image, None, seed)[0].permute(2, 0, 1) for seed in SEEDS[:1000].tolist()])

    def measures(pixels_BCHW):
        values = pixels_BCHW.double()
        filled = (pixels_BCHW == torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]).all(1)
        edges = values.diff(dim=3).abs().mean((1, 2, 3)), values.diff(dim=2).abs().mean((1, 2, 3))
        tilt = values[..., :24].mean((1, 2, 3)) - values[..., 24:].mean((1, 2, 3))
        means, stds = values.mean((2, 3)).T, values.std((2, 3)).T
        return {
            "mean": means,
            "std": stds,
            "edges": edges,
            "tilt": [tilt],
            "filled": [filled.double().mean((1, 2))],
            "extremes": values.flatten(1).quantile(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), dim=1),
        }

    limit, other = 1.95 * (2 / 1000) ** 0.5, measures(unlike)
    for name, found in measures(ours).items():
        for one, two in zip(found, measures(theirs)[name], strict=True):
            assert ks_distance(one.numpy(), two.numpy()) < limit, name
    # the measure tells: without RandAugment they differ by far
    assert ks_distance(other["filled"][0].numpy(), measures(theirs)["filled"][0].numpy()) > 2 * limit


def test_randaugment_of_one_channel_keeps_it():
    augment = RandomCrop((32, 32), SCALE, randaug=PUBLISHED)
    views = [augment(make_pixels(0, 60, 80)[:, :, :1], None, seed)[0] for seed in SEEDS[:300].tolist()]
    assert {tuple(view.shape) for view in views} == {(32, 32, 1)}
    assert {view.dtype for view in views} == {torch.uint8}
    assert sum((view == 114).float().mean().item() > 0.1 for view in views) > 10  # the mean of ImageNet, uncovered
    assert len({view.sum().item() for view in views}) > 250


@pytest.mark.parametrize("crop_ratio", [1.0, 0.75])
@pytest.mark.parametrize("shape", [(304, 200), (104, 264), (96, 96)])
def test_squash_has_the_pixels_of_timms_evaluation(shape, crop_ratio):
    """`TEST.CROP False` of the published 384-px configurations: the whole picture, bent into a square."""
    image = make_pixels(3, *shape)
    how = {"crop_pct": crop_ratio, "crop_mode": "squash", "interpolation": "bicubic", "use_prefetcher": True}
    theirs = create_transform(96, is_training=False, **how)(Image.fromarray(image))
    ours, _ = CenterCrop((96, 96), crop_ratio, "squash")(image, None, 0)
    error = (ours.permute(2, 0, 1).double() - theirs.double())[:, 4:-4, 4:-4] ** 2
    assert 10 * np.log10(255**2 / max(error.mean().item(), 1e-9)) >= 50


def test_squash_moves_targets_with_the_picture():
    mask = np.arange(60 * 80, dtype=np.uint8).reshape(60, 80)
    _, seen = CenterCrop((30, 30), 1.0, "squash")(
        make_pixels(0, 60, 80), boxes_of([(0, 0, 80, 60), (40, 30, 40, 30)]), 0
    )
    assert seen["boxes"].tolist() == [[0, 0, 30, 30], [15, 15, 30, 30]]
    _, seen = CenterCrop((60, 80), 1.0, "squash")(make_pixels(0, 60, 80), mask, 0)
    assert np.array_equal(seen.numpy(), mask)


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
    ours = np.array([crop_box(*size, seed=seed, scale=scale, ratio=ratio) for seed in SEEDS[:2000].tolist()])
    torch.manual_seed(0)
    blank = torch.empty(1, *size)
    theirs = np.array([RandomResizedCrop.get_params(blank, scale, ratio) for _ in range(2000)])

    def views(box):
        top, left, h, w = box.T.astype(float)
        room = (size[0] - h).clip(1), (size[1] - w).clip(1)
        return h, w, h * w, w / h, top, left, top / room[0], left / room[1]

    for one, two in zip(views(ours), views(theirs), strict=True):
        assert ks_distance(one, two) < 0.062


@pytest.mark.parametrize(
    ("shape", "resolution", "crop_ratio"),
    [
        ((300, 400), (96, 96), 0.875),
        ((331, 257), (96, 64), 0.75),
        ((200, 120), (64, 64), 1.0),
        ((60, 80), (96, 96), 0.9),
    ],
)
def test_center_crop_has_the_pixels_of_pillow(shape, resolution, crop_ratio):
    """Pillow takes the box out of the whole image, so at its border it sees what lies outside; not compared there."""
    image = make_pixels(3, *shape)
    factor = max(resolution[0] / crop_ratio / shape[0], resolution[1] / crop_ratio / shape[1])
    h, w = (min(side, round(wanted / factor)) for side, wanted in zip(shape, resolution, strict=True))
    top, left = (shape[0] - h) // 2, (shape[1] - w) // 2
    reference = Image.fromarray(image).resize(
        resolution[::-1], Image.Resampling.BICUBIC, box=(left, top, left + w, top + h)
    )
    ours = CenterCrop(resolution, crop_ratio)(image, None, 0)[0].numpy().astype(float)
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


@pytest.mark.parametrize("bits", [8, 16])
def test_the_flip_of_a_view_is_that_of_the_device_bit_for_bit(bits):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 2**bits, (40, 30, 20, 3)).astype(f"uint{bits}")
    seeds = SEEDS[:40].tolist()
    still, moved = (
        torch.stack(
            [
                RandomCrop((16, 16), SCALE, randaug=None if bits == 16 else PUBLISHED, flip=flip)(i, None, s)[0]
                for i, s in zip(images, seeds, strict=True)
            ]
        )
        for flip in (False, True)
    )
    assert moved.dtype == still.dtype
    assert torch.equal(moved.to(torch.int32), random_flip(still, torch.tensor(seeds)).to(torch.int32))
    assert not torch.equal(moved.to(torch.int32), still.to(torch.int32))


def test_flips_of_edges_and_of_many_seeds_are_those_of_the_tensor():
    seeds = torch.from_numpy(np.concatenate([SEEDS, [0, 1, 2**32 - 1, 2**32, 2**63 - 1]]))
    assert [flips(seed) for seed in seeds.tolist()] == (hash_bits(seeds, FLIP_STREAM, 1)[:, 0] & 1).bool().tolist()


def boxes_of(rows, height=60, width=80):
    """Objects with a mask each, which fills the box."""
    masks = np.zeros((len(rows), height, width), np.bool_)
    for mask, (x, y, w, h) in zip(masks, rows, strict=True):
        mask[y : y + h, x : x + w] = True
    crowd = np.arange(len(rows)) % 2 == 1
    return Boxes(np.array(rows, np.float32).reshape(-1, 4), np.arange(len(rows)), crowd, masks)


@pytest.mark.parametrize("seed", SEEDS[:8].tolist())
def test_masks_and_boxes_go_where_torchvision_puts_them(seed):
    """Its random transforms, with our draws in the place of theirs."""
    mask, objects = (
        (make_pixels(1, 60, 80)[:, :, 0] // 50).copy(),
        boxes_of([(0, 0, 80, 60), (20, 10, 30, 40), (50, 30, 9, 5)]),
    )
    top, left, h, w = crop_box(60, 80, seed, (0.3, 1.0), (3 / 4, 4 / 3))
    crop, flip = v2.RandomResizedCrop((32, 48)), v2.RandomHorizontalFlip(1.0 if flips(seed) else 0.0)
    crop.make_params = lambda _: {"top": top, "left": left, "height": h, "width": w}
    corners = torch.from_numpy(objects.boxes) @ torch.tensor([[1.0, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    theirs = v2.Compose([crop, flip, v2.SanitizeBoundingBoxes(labels_getter=lambda all_of_it: all_of_it["labels"])])(
        {
            "image": TVImage(torch.zeros(3, 60, 80)),
            "mask": Mask(torch.from_numpy(mask)),
            "boxes": BoundingBoxes(corners, format="XYXY", canvas_size=(60, 80)),
            "labels": torch.arange(3),
        }
    )
    view = RandomCrop((32, 48), (0.3, 1.0), flip=True)
    _, ours = view(make_pixels(0, 60, 80), mask, seed)
    assert torch.equal(ours, theirs["mask"].as_subclass(torch.Tensor))
    assert type(ours) is torch.Tensor
    image, ours = view(make_pixels(0, 60, 80), objects, seed)
    assert torch.equal(image, view(make_pixels(0, 60, 80), None, seed)[0])
    assert torch.equal(ours["boxes"], theirs["boxes"].as_subclass(torch.Tensor))
    assert torch.equal(ours["labels"], theirs["labels"])
    assert torch.equal(ours["crowd"], ours["labels"] % 2 == 1)
    for (x1, y1, x2, y2), inside in zip(ours["boxes"].tolist(), ours["masks"], strict=True):
        rows, columns = inside.nonzero().T
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert np.abs(np.array(found) - (x1, y1, x2, y2)).max() <= 1.5  # pixels of the result
    assert {type(value) for value in ours.values()} == {torch.Tensor}


def test_the_evaluation_view_moves_targets_as_torchvisions_centre_crop():
    mask, objects = (
        (make_pixels(1, 60, 60)[:, :, 0] // 50).copy(),
        boxes_of([(0, 0, 60, 60), (20, 10, 30, 40), (0, 0, 5, 5)], 60, 60),
    )
    image, seen = CenterCrop((40, 40), 40 / 60)(make_pixels(0, 60, 60), mask, 0)
    crop = v2.CenterCrop(40)
    assert torch.equal(image, crop(torch.from_numpy(make_pixels(0, 60, 60)).permute(2, 0, 1)).permute(1, 2, 0))
    assert torch.equal(seen, crop(Mask(torch.from_numpy(mask))).as_subclass(torch.Tensor))
    _, seen = CenterCrop((40, 40), 40 / 60)(make_pixels(0, 60, 60), objects, 0)
    assert seen["boxes"].tolist() == [[0, 0, 40, 40], [10, 0, 40, 40]]
    assert seen["labels"].tolist() == [0, 1]
    assert seen["masks"].flatten(1).sum(1).tolist() == [1600, 1200]


def test_what_counts_for_the_whole_image_stays_and_images_without_objects_too():
    image = make_pixels(0, 60, 80)
    for target in (np.array([True, False]), np.array([0.5, -3.0], np.float32)):
        for view in (RandomCrop((16, 16), randaug=PUBLISHED, flip=True), CenterCrop((16, 16), 1.0)):
            assert view(image, target, 1)[1].tolist() == target.tolist()
    _, seen = RandomCrop((16, 16), flip=True)(image, boxes_of([]), 1)
    assert [tuple(value.shape) for value in seen.values()] == [(0, 4), (0,), (0,), (0, 16, 16)]
    read_only = np.zeros((60, 80), np.uint8)
    read_only.flags.writeable = False  # as a decoder may return it
    assert see(read_only, (60, 80), center_box(60, 80, (16, 16), 1.0), (16, 16)).shape == (16, 16)


def objects_of_a_picture(high, wide):
    """A picture of dark grey with a bright rectangle, and the objects that say where it is."""
    pixels = np.full((high, wide, 3), 40, np.uint8)
    top, left, bottom, right = high // 4, wide // 5, high // 2, wide // 2
    pixels[top:bottom, left:right] = 240
    masks = np.zeros((1, high, wide), np.bool_)
    masks[0, top:bottom, left:right] = True
    boxes = np.array([[left, top, right - left, bottom - top]], np.float32)
    return pixels, Boxes(boxes, np.array([0]), np.zeros(1, np.bool_), masks)


@pytest.mark.parametrize("shape", [(60, 80), (200, 90), (64, 64), (30, 31)])
def test_scale_jitter_moves_boxes_and_masks_with_the_picture(shape):
    view = ScaleJitter((64, 64), (0.5, 2.0))
    pixels, objects = objects_of_a_picture(*shape)
    sides, kept = set(), 0
    for seed in map(int, SEEDS[:60]):
        image, seen = view(pixels, objects, seed)
        assert image.shape == (64, 64, 3)
        assert seen["masks"].shape[1:] == (64, 64)
        content = (image != 128).any(2)
        sides.add((int(content.any(1).sum()), int(content.any(0).sum())))
        if not len(seen["boxes"]):
            continue
        kept += 1
        bright = image[..., 0] > 200
        x1, y1, x2, y2 = seen["boxes"][0].tolist()
        ys, xs = bright.nonzero(as_tuple=True)
        assert len(ys)
        assert abs(float(ys.min()) - y1) < 2
        assert abs(float(ys.max()) + 1 - y2) < 2
        assert abs(float(xs.min()) - x1) < 2
        assert abs(float(xs.max()) + 1 - x2) < 2
        rim = 3 * ((x2 - x1) + (y2 - y1)) + 4
        assert int((bright != seen["masks"][0]).sum()) <= rim, seed
        again, same = view(pixels, objects, seed)
        assert torch.equal(again, image)
        assert torch.equal(same["boxes"], seen["boxes"])
    assert kept > 40
    assert min(high for high, _ in sides) < 40
    assert max(high for high, _ in sides) == 64


def test_scale_jitter_takes_any_part_and_any_size():
    pixels = np.broadcast_to(np.arange(100, dtype=np.uint8)[:, None, None], (100, 100, 3)).copy()
    view = ScaleJitter((50, 50), (0.2, 2.0), flip=False)
    shown = [view(pixels, None, int(seed))[0][..., 0] for seed in SEEDS[:400]]
    heights = np.array([int((image != 128).any(1).sum()) for image in shown])
    full = heights == 50
    assert abs(float(full.mean()) - 1.0 / 1.8) < 0.08  # factors of 1 to 2
    assert abs(float(heights[~full].mean()) - 30) < 3  # evenly from 10 to 50
    tops = np.array([int(image[0, 0]) for image in shown])[full]
    assert tops.min() < 3
    assert tops.max() > 40


def test_a_flip_is_as_often_as_not():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16] = 255
    view = ScaleJitter((32, 32), (1.0, 1.0))
    left = [bool(view(pixels, None, int(seed))[0][0, 0, 0] > 128) for seed in SEEDS[:400]]
    assert 0.4 < np.mean(left) < 0.6
    never = ScaleJitter((32, 32), (1.0, 1.0), flip=False)
    for seed in SEEDS[:20]:
        assert torch.equal(never(pixels, None, int(seed))[0], torch.tensor(pixels))


@pytest.mark.parametrize(
    ("size", "canvas", "scale", "expected"),
    [((60, 80), (64, 64), 1, (48, 64)), ((80, 60), (64, 32), 1, (43, 32)), ((1000, 1), (64, 64), 1, (64, 1)),
     ((480, 640), (64, 64), 2.0, (96, 128)), ((64, 64), (64, 64), 0.1, (6, 6))],
)  # fmt: skip
def test_an_image_fits_its_canvas(size, canvas, scale, expected):
    assert fitted(size, canvas, scale) == expected


@pytest.mark.parametrize(("bits", "grey"), [(8, 128), (16, 32768)])
def test_letterbox_keeps_the_picture_whole_and_the_objects_where_they_are(bits, grey):
    pixels, objects = objects_of_a_picture(60, 80)
    if bits == 16:
        pixels = pixels.astype(np.uint16) * 257
    tiny = Boxes(np.array([[1, 2, 0.25, 0.5]], np.float32), np.array([0]), np.array([True]))
    image, seen = Letterbox((64, 64))(pixels, objects, 0)
    assert torch.equal(image[:48].int(), resize(pixels, (48, 64)).int())
    assert (image[48:].int() == grey).all()
    assert seen["boxes"].tolist() == [[16, 15, 40, 30]]
    assert torch.equal(seen["masks"], torch.tensor(objects.masks))
    assert Letterbox((64, 64))(pixels, tiny, 0)[1]["boxes"].tolist() == [[1, 2, 1.25, 2.5]]
    assert Letterbox((64, 64))(pixels, None, 0)[1] is None
