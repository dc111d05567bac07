"""SimMIM against slow, literal formulas of the method's description, written for this test."""

import pytest
import torch

import swinmim
from pretrain.masking import blurred, upsample_mask
from pretrain.simmim import LOCAL_NORM_WINDOW, SimMIM, local_statistics, make_target, visible_statistics


def make(target="raw", resolution=64, in_chans=3, mask_unit=32, **kwargs):
    torch.manual_seed(0)
    encoder = swinmim.create_encoder(
        "swinv2_t", resolution=resolution, in_chans=in_chans, embed_dim=32, depths=(1, 1, 1, 1), **kwargs
    )
    for parameter in encoder.parameters():  # at init every block is the identity, which would prove nothing
        parameter.data += 0.1 * torch.randn_like(parameter)
    return SimMIM(encoder, mask_unit=mask_unit, target=target)


def slow_normalised_target(image, window=47):
    """(C, H, W): each pixel against the pixels that exist in the window around it; unbiased variance."""
    channels, height, width = image.shape
    half, result = window // 2, torch.zeros_like(image)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                box = image[c, max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1].double()
                result[c, y, x] = (image[c, y, x] - box.mean()) / (box.var(unbiased=True).clamp_min(0) + 1e-6).sqrt()
    return result


def slow_loss(model, image, mask):
    """One image (C, H, W): mask tokens one by one, pixel shuffle by index, sums pixel by pixel."""
    encoder, unit, stride = model.encoder, model.mask_unit, model.encoder.stride
    tokens = encoder.embed(image[None])[0].clone()
    patch = encoder.architecture.patch_size
    for y in range(tokens.shape[0]):
        for x in range(tokens.shape[1]):
            if mask[y * patch // unit, x * patch // unit]:
                tokens[y, x] = model.mask_token
    features = encoder.norm(encoder.encode(tokens[None])[-1])[0]
    weight, bias = model.decoder[0].weight[:, :, 0, 0], model.decoder[0].bias
    target = image if model.target == "raw" else slow_normalised_target(image)
    total, count = torch.zeros(()), 0
    channels, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if not mask[y // unit, x // unit]:
                continue
            values = weight @ features[y // stride, x // stride] + bias
            for c in range(channels):
                predicted = values[c * stride * stride + (y % stride) * stride + x % stride]
                total = total + (target[c, y, x] - predicted).abs()
            count += 1
    return total / (count + 1e-5) / channels


@pytest.mark.parametrize("target", ["raw", "local_norm"])
@pytest.mark.parametrize(("resolution", "in_chans"), [(64, 3), ((64, 96), 2)])
def test_loss_equals_the_slow_formulas(target, resolution, in_chans):
    model = make(target, resolution, in_chans)
    height, width = model.encoder.resolution
    images = torch.randn(1, in_chans, height, width)
    mask = model.draw_mask(torch.tensor([3]))
    loss, prediction = model(images, mask)
    assert prediction.shape == images.shape
    assert prediction.dtype == torch.float32
    with torch.no_grad():
        expected = slow_loss(model, images[0], mask[0])
    assert torch.allclose(loss, expected, rtol=2e-5)


def test_batch_loss_is_the_mean_of_the_images():
    model = make()
    images, mask = torch.randn(3, 3, 64, 64), model.draw_mask(torch.arange(3))
    loss, _ = model(images, mask)
    single = [model(images[i : i + 1], mask[i : i + 1])[0] for i in range(3)]
    assert torch.allclose(loss, torch.stack(single).mean(), rtol=1e-5)


def test_masked_pixels_do_not_reach_the_prediction():
    model = make(mask_unit=16)
    images, mask = torch.randn(1, 3, 64, 64), model.draw_mask(torch.tensor([1]))
    hidden = mask.repeat_interleave(16, 1).repeat_interleave(16, 2).unsqueeze(1)
    _, first = model(images, mask)
    _, second = model(torch.where(hidden, torch.randn_like(images), images), mask)
    assert torch.equal(first, second)


def test_local_statistics_leave_autocast_and_survive_flat_images():
    images = torch.full((1, 3, 64, 64), 0.5) + 1e-3 * torch.randn(1, 3, 64, 64)
    mean, std = local_statistics(images)
    with torch.autocast("cpu", torch.bfloat16):
        mean_auto, std_auto = local_statistics(images)
    assert torch.equal(mean, mean_auto)
    assert torch.equal(std, std_auto)
    assert std.dtype == torch.float32
    flat_mean, flat_std = local_statistics(torch.full((1, 1, 64, 64), 3.0))
    assert torch.allclose(flat_mean, torch.tensor(3.0))
    assert torch.isfinite(flat_std).all()


def test_visible_statistics_equal_a_slow_average():
    torch.manual_seed(0)
    images, mask = 3 + torch.randn(1, 2, 12, 20), torch.rand(1, 12, 20) < 0.5
    window = 13
    mean, std = visible_statistics(images, mask, window)
    y, x = torch.meshgrid(torch.arange(12), torch.arange(20), indexing="ij")
    for row, column in ((0, 0), (5, 9), (11, 19), (3, 17)):
        near = ~mask[0] & ((y - row).abs() <= 11) & ((x - column).abs() <= 11)  # three deviations
        weight = near * torch.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * window**2 / 12))
        first, second = ((images[0] ** power * weight).sum((1, 2)) / weight.sum() for power in (1, 2))
        assert torch.allclose(mean[0, :, row, column], first, atol=1e-4)
        assert torch.allclose(std[0, :, row, column], (second - first**2 + 1e-6).sqrt(), atol=1e-4)


def test_visible_statistics_leave_autocast_and_survive_flat_images():
    images = 2 + 1e-2 * torch.randn(1, 3, 64, 64)
    mask = torch.rand(1, 64, 64) < 0.6
    expected = visible_statistics(images, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = visible_statistics(images, mask)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    assert ((expected[1] > 5e-3) & (expected[1] < 2e-2)).all()
    _, flat = visible_statistics(torch.full((1, 1, 64, 64), 3.0), mask)
    assert torch.isfinite(flat).all()


@pytest.mark.parametrize("target", ["raw", "local_norm"])
def test_pixels_and_guesses_do_not_depend_on_what_is_hidden(target):
    model = make(target)
    images, prediction = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 64, 64)
    mask = upsample_mask(model.draw_mask(torch.arange(2)), 32)
    other = torch.where(mask.unsqueeze(1), 5 + 9 * torch.randn_like(images), images)
    assert torch.equal(model.to_pixels(prediction, images, mask), model.to_pixels(prediction, other, mask))
    for first, second in zip(model.guesses(images, mask), model.guesses(other, mask), strict=True):
        assert torch.equal(first, second)


def test_a_perfect_prediction_is_the_image_where_visible_pixels_are_like_the_hidden_ones():
    torch.manual_seed(0)
    model = make("local_norm", 192)
    images = torch.tensor([0.5, -1.0, 3.0]).view(1, 3, 1, 1) + 0.2 * torch.randn(1, 3, 192, 192)
    mask = upsample_mask(model.draw_mask(torch.tensor([0])), 32)
    found = model.to_pixels(make_target(images, "local_norm"), images, mask)
    assert (found - images).abs().mean() < 0.1 * 0.2
    raw = make("raw", 192)
    assert torch.equal(raw.to_pixels(images, images, mask), images)


def test_guesses_are_in_the_space_of_the_target():
    torch.manual_seed(0)
    images = 2 + torch.randn(1, 3, 192, 192)
    model = make("local_norm", 192)
    mask = upsample_mask(model.draw_mask(torch.tensor([0])), 32)
    zero, blur = model.guesses(images, mask)
    assert (zero == 0).all()
    mean, std = visible_statistics(images, mask, LOCAL_NORM_WINDOW)
    assert torch.equal(blur, blurred((images - mean) / std, mask, sigma=16))
    colour, blur = make("raw", 192).guesses(images, mask)
    assert torch.allclose(colour[0, :, 0, 0], images[0][:, ~mask[0]].mean(1), atol=1e-5)
    assert torch.equal(blur, blurred(images, mask, sigma=16))


def test_gradients_at_initialisation_are_those_of_the_paper():
    """Fresh blocks are the identity: only norms of branches, merging, final norm, decoder and mask token learn."""
    encoder = swinmim.create_encoder("swinv2_t", resolution=64, embed_dim=32, depths=(1, 1, 1, 1))
    model = SimMIM(encoder)
    loss, _ = model(torch.randn(2, 3, 64, 64), model.draw_mask(torch.arange(2)))
    loss.backward()
    assert model.mask_token.grad.abs().sum() > 0
    assert model.decoder[0].weight.grad.abs().sum() > 0
    assert encoder.layers[0].blocks[0].attn.qkv.weight.grad.abs().sum() == 0


def test_wrong_settings_are_named():
    encoder = swinmim.create_encoder("swinv2_demo", resolution=32)
    with pytest.raises(ValueError, match="mask_unit must be a multiple of the patch size 4, got 6"):
        SimMIM(encoder, mask_unit=6)
    with pytest.raises(ValueError, match=r"mask_ratio must lie between 0 and 1, got 1\.5"):
        SimMIM(encoder, mask_unit=4, mask_ratio=1.5)
    with pytest.raises(ValueError, match="no whole number of 24-px units"):
        SimMIM(encoder, mask_unit=24)
    encoder.resize(36, pad=True)
    with pytest.raises(ValueError, match=r"whole strides \(8\), got \(36, 36\)"):
        SimMIM(encoder, mask_unit=4)
