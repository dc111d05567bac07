import pytest
import torch

from swinmim.models.position_bias import relative_coords, relative_position_index, spread_bias
from swinmim.models.swinv2 import Architecture, SwinV2

SMALL = Architecture(name="small", embed_dim=32, depths=(2, 1), head_dim=16, window_ratio=8)


@pytest.mark.parametrize(
    ("pretrained", "window", "largest"),
    [(12, 12, 1.0566), (12, 14, 1.1287), (6, 7, 1.1353), (12, 16, 1.1913), (6, 8, 1.2029), (12, 24, 1.3826)],
)
def test_largest_coordinate_of_a_grown_window(pretrained, window, largest):
    coords = relative_coords((window, window), (pretrained, pretrained))
    assert coords.dtype == torch.float32
    assert coords.max().item() == pytest.approx(largest, abs=5e-5)
    assert coords.min() == -coords.max()


def test_kinds():
    renormalised = relative_coords((24, 24), (12, 12), kind="log_renormalised")
    assert torch.equal(renormalised, relative_coords((24, 24), (24, 24)))
    linear = relative_coords((24, 24), (12, 12), kind="linear")
    assert linear.max().item() == pytest.approx(23 / 11)


def test_a_window_of_one_token():
    assert torch.equal(relative_coords((1, 1), (1, 1)), torch.zeros(1, 1, 2))
    assert relative_coords((2, 2), (1, 1)).isfinite().all()


def test_index_finds_the_offset_of_every_pair():
    height, width = 3, 4
    offsets = torch.stack(
        torch.meshgrid(torch.arange(1 - height, height), torch.arange(1 - width, width), indexing="ij"), -1
    ).flatten(0, 1)
    places = torch.cartesian_prod(torch.arange(height), torch.arange(width))
    found = offsets[relative_position_index((height, width))]
    assert torch.equal(found, places[:, None] - places[None])


def test_spread_bias_is_the_sigmoid_of_the_gather():
    table = torch.randn(15, 2)
    index = relative_position_index((2, 3))
    expected = 16 * torch.sigmoid(table[index]).permute(2, 0, 1) - 8
    torch.testing.assert_close(spread_bias(table, index), expected)


def bias(encoder: SwinV2, stage: int = 0) -> torch.Tensor:
    layer = encoder.layers[stage]
    return layer.blocks[0].attn.position_bias(layer.tables(shifted=False))


def test_bias_at_shared_offsets_is_unchanged_when_the_window_grows():
    encoder = SwinV2(SMALL, resolution=32)
    before = bias(encoder)
    encoder.resize(64)
    after = bias(encoder)
    assert encoder.stages[0].window == (8, 8)
    corner = [row * 8 + column for row in range(4) for column in range(4)]  # the first 4x4 tokens of the 8x8 window
    # Equal but for the order of summation, which BLAS may choose by the number of rows.
    torch.testing.assert_close(before, after[:, corner][:, :, corner], rtol=0, atol=1e-5)


def test_renormalised_bias_changes_when_the_window_grows():
    encoder = SwinV2(SMALL, resolution=32, position_bias="log_renormalised")
    torch.nn.init.normal_(encoder.layers[0].blocks[0].attn.cpb_mlp[2].weight)
    before = bias(encoder)
    encoder.resize(64)
    corner = [row * 8 + column for row in range(4) for column in range(4)]
    assert not torch.allclose(before, bias(encoder)[:, corner][:, :, corner])
