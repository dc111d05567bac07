"""Features against the encoder's own methods, batch by batch."""

import pytest
import torch
from torch import nn

from swinmim.evaluation.features import collect, features_bytes, maps_of
from swinmim.models.swinv2 import create_encoder


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = create_encoder("swinv2_demo", resolution=32, embed_dim=16, head_dim=8).eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return encoder


def batches(images, labels, size=2):
    return zip(images.split(size), labels.split(size), strict=True)


@torch.no_grad()
def test_maps_are_the_encoders(encoder):
    images = torch.randn(3, 3, 32, 32)
    maps = maps_of(encoder, images, (1, 2))
    torch.testing.assert_close(maps[1], encoder.features(images)[0].flatten(2).transpose(1, 2))
    torch.testing.assert_close(maps[2].mean(1), encoder.pool(images))


def test_every_image_is_collected_once_in_order(encoder):
    images, labels = torch.randn(5, 3, 32, 32), torch.tensor([2, 0, 1, 1, 0])
    found = collect(encoder, batches(images, labels), (1, 2), 7, keep_maps=True)
    with torch.no_grad():
        maps = maps_of(encoder, images, (1, 2))
    assert torch.equal(found.labels, labels)  # of at most seven
    for stage, tokens in maps.items():
        torch.testing.assert_close(found.maps[stage].float(), tokens, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.pooled[stage], tokens.mean(1))
    kept = [*found.maps.values(), *found.pooled.values()]
    assert sum(t.nbytes for t in kept) == features_bytes(encoder, (1, 2), 5, keep_maps=True)
    assert not found.pooled[1].requires_grad


def test_means_alone_need_little(encoder):
    images, labels = torch.randn(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)
    found = collect(encoder, batches(images, labels), (2,), 4, keep_maps=False)
    assert found.maps == {}
    assert found.pooled.keys() == {2}
    assert features_bytes(encoder, (2,), 4, keep_maps=False) == found.pooled[2].nbytes


@pytest.mark.parametrize(
    ("value", "keep_maps", "fails"), [(torch.nan, False, True), (1e6, True, True), (1e6, False, False)]
)
def test_features_that_are_no_numbers_are_refused(encoder, value, keep_maps, fails):
    nn.init.constant_(encoder.norm.bias, value)
    images, labels = torch.randn(2, 3, 32, 32), torch.zeros(2, dtype=torch.int64)
    if fails:
        with pytest.raises(ValueError, match=r"stage 2 gives values that are not finite, or beyond"):
            collect(encoder, batches(images, labels), (2,), 2, keep_maps=keep_maps)
    else:
        collect(encoder, batches(images, labels), (2,), 2, keep_maps=keep_maps)
