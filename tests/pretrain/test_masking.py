import pytest
import torch

from pretrain.masking import blurred, mask_grid, num_masked, random_mask, upsample_mask, visible_mean


def test_official_counts_at_192():
    assert mask_grid((192, 192), 32) == (6, 6)
    assert num_masked((6, 6), 0.6) == 22  # recipe of SimMIM: ceil(0.6 * 36)


@pytest.mark.parametrize("grid", [(6, 6), (1, 2), (8, 5), (48, 48)])
def test_every_image_has_the_same_count(grid):
    mask = random_mask(torch.arange(50), grid, 0.6)
    assert mask.shape == (50, *grid)
    assert mask.dtype == torch.bool
    assert (mask.sum((1, 2)) == num_masked(grid, 0.6)).all()


def test_mask_depends_on_the_seed_alone():
    seeds = torch.tensor([5, 9, 5])
    mask = random_mask(seeds, (6, 6), 0.6)
    assert torch.equal(mask[0], mask[2])
    assert not torch.equal(mask[0], mask[1])
    assert torch.equal(mask[1:2], random_mask(seeds[1:2], (6, 6), 0.6))


def test_every_unit_is_masked_equally_often():
    mask = random_mask(torch.arange(20_000), (6, 6), 0.6).float().mean(0)
    assert (mask - 22 / 36).abs().max() < 0.015  # four standard errors


def test_grid_that_does_not_fit_names_the_nearest_sides():
    with pytest.raises(ValueError, match=r"200 x 192 px .* 32-px units\. Nearest sides: 192, 224"):
        mask_grid((200, 192), 32)


def test_upsample_is_nearest():
    mask = torch.tensor([[[True, False]]])
    assert upsample_mask(mask, 2).tolist() == [[[True, True, False, False], [True, True, False, False]]]


def test_visible_mean_ignores_masked_pixels():
    images = torch.tensor([[[[1.0, 5.0], [3.0, 7.0]]]])
    mask = torch.tensor([[[False, True], [False, True]]])
    assert visible_mean(images, mask).item() == 2.0


def test_blur_of_a_constant_image_is_the_constant_even_far_from_visible_pixels():
    images = torch.full((1, 3, 64, 64), 0.7)
    mask = torch.ones(1, 64, 64, dtype=torch.bool)
    mask[:, :4, :4] = False
    assert torch.allclose(blurred(images, mask, sigma=2.0), images, atol=1e-5)


def test_blur_matches_a_slow_loop():
    torch.manual_seed(0)
    images, mask = torch.rand(1, 2, 9, 7), torch.rand(1, 9, 7) < 0.5
    sigma, radius = 1.5, 4
    fast = blurred(images, mask, sigma)
    for y in range(9):
        for x in range(7):
            total, weight = torch.zeros(2), 0.0
            for v in range(max(0, y - radius), min(9, y + radius + 1)):
                for u in range(max(0, x - radius), min(7, x + radius + 1)):
                    if not mask[0, v, u]:
                        w = float(torch.exp(torch.tensor(-((v - y) ** 2 + (u - x) ** 2) / (2 * sigma**2))))
                        total, weight = total + w * images[0, :, v, u], weight + w
            assert torch.allclose(fast[0, :, y, x], total / weight, atol=1e-5)
