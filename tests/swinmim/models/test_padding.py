"""Sizes that do not fit: the padded encoder against one that loops over tokens and knows of no padding."""

import pytest
import torch
import torch.nn.functional as F
from no_sync import NoSync
from timm.models.swin_transformer_v2 import SwinTransformerV2

from swinmim.models.position_bias import relative_coords
from swinmim.models.swinv2 import SwinV2, create_encoder
from swinmim.models.windows import StageWindow, padding_places, stage_windows

SMALL = {"embed_dim": 32, "depths": (2, 3), "head_dim": 16}
# Neither the patch (4), nor the windows, nor the merging of 2x2 tokens divides these: the grids are 7x12 and 4x6.
RESOLUTION, WINDOW = (27, 46), (3, 5)


def small(**options) -> SwinV2:
    torch.manual_seed(0)
    size = {"resolution": RESOLUTION, "window": WINDOW, "pad": True}
    encoder = create_encoder("swinv2_demo", **{**SMALL, **size, **options})
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0.2, 0.4)
    return encoder.double()


def slow_attention(attention, tokens_HWC, stage: StageWindow, pretrained, shift):
    """Each token sees the tokens of its window and region, one token at a time."""
    H, W, C = tokens_HWC.shape
    qkv_HW3hd = (tokens_HWC @ attention.qkv.weight.T).view(H, W, 3, attention.num_heads, -1)
    q_bias, v_bias = (b.view(attention.num_heads, -1) for b in (attention.q_bias, attention.v_bias))
    coords = relative_coords(stage.window, pretrained).double()
    scale_h = attention.logit_scale.clamp(max=4.605170185988092).exp().flatten()

    def cell(place: int, axis: int) -> tuple[int, bool]:
        return (place - shift[axis]) % stage.padded[axis] // stage.window[axis], place < shift[axis]

    rows = []
    for y in range(H):
        for x in range(W):
            seen = [(b, a) for b in range(H) for a in range(W) if cell(b, 0) == cell(y, 0) and cell(a, 1) == cell(x, 1)]
            q_hd = F.normalize(qkv_HW3hd[y, x, 0] + q_bias, dim=-1)
            logits_hn = []
            for b, a in seen:
                offset = y - b + stage.window[0] - 1, x - a + stage.window[1] - 1
                bias_h = 16 * torch.sigmoid(attention.cpb_mlp(coords[offset]))
                logits_hn.append((q_hd * F.normalize(qkv_HW3hd[b, a, 1], dim=-1)).sum(-1) * scale_h + bias_h)
            weights_hn = torch.stack(logits_hn, -1).softmax(-1)
            values_nhd = torch.stack([qkv_HW3hd[b, a, 2] + v_bias for b, a in seen])
            rows.append(torch.einsum("hn,nhd->hd", weights_hn, values_nhd).flatten())
    return attention.proj(torch.stack(rows).view(H, W, C))


def slow_features(encoder: SwinV2, image_CHW: torch.Tensor) -> list[torch.Tensor]:
    patch = encoder.architecture.patch_size
    height, width = image_CHW.shape[1:]
    whole = image_CHW.new_zeros(len(image_CHW), height + -height % patch, width + -width % patch)
    whole[:, :height, :width] = image_CHW
    tokens = encoder.patch_embed.norm(encoder.patch_embed.proj(whole[None])[0].permute(1, 2, 0))
    maps = []
    for layer, stage, pretrained in zip(encoder.layers, encoder.stages, encoder.pretrained_windows, strict=True):
        if layer.downsample is not None:
            H, W, C = tokens.shape
            even = tokens.new_zeros(H + H % 2, W + W % 2, C)
            even[:H, :W] = tokens
            quads = torch.cat([even[dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)], -1)
            tokens = layer.downsample.norm(layer.downsample.reduction(quads))
        for j, block in enumerate(layer.blocks):
            shift = stage.shift if j % 2 else (0, 0)
            tokens = tokens + block.norm1(slow_attention(block.attn, tokens, stage, pretrained, shift))
            tokens = tokens + block.norm2(block.mlp(tokens))
        maps.append(tokens.permute(2, 0, 1))
    return maps


def gradients(encoder: SwinV2, maps: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    encoder.zero_grad()
    generator = torch.Generator().manual_seed(1)
    sum((m * torch.randn(m.shape, generator=generator, dtype=m.dtype)).sum() for m in maps).backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, *RESOLUTION, generator=torch.Generator().manual_seed(2)).double()


@pytest.fixture(scope="module")
def slow(images):
    encoder = small(attention="reference")
    maps = [torch.stack(pair) for pair in zip(*(slow_features(encoder, image) for image in images), strict=True)]
    return [m.detach() for m in maps], gradients(encoder, maps)


@pytest.mark.parametrize("attention", ["reference", "sdpa", "chunked"])
def test_equals_the_slow_loop(attention, images, slow):
    """Values and every gradient: a token attends to the real tokens of its window and to nothing else."""
    encoder = small(attention=attention)
    assert [s.padded for s in encoder.stages] == [(9, 15), (6, 10)]
    maps = encoder.features(images)
    expected_maps, expected = slow
    for found, m in zip(maps, expected_maps, strict=True):
        assert (found - m).abs().max() <= 1e-10 * m.abs().max()
    ours = gradients(encoder, maps)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (ours[name] - gradient).norm() <= 1e-10 * gradient.norm() + 1e-12, name


@pytest.mark.parametrize("attention", ["reference", "sdpa", "chunked"])
def test_a_size_that_fits_changes_no_bit(attention):
    options = {"resolution": (32, 48), "window": (4, 3), "attention": attention}
    padded, strict = small(**options), small(**options, pad=False)
    assert padded.stages == strict.stages
    images = torch.randn(1, 3, 32, 48).double()
    for a, b in zip(padded.features(images), strict.features(images), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("attention", ["reference", "sdpa", "chunked"])
def test_bf16_and_recomputation(attention, images):
    encoder = small(attention=attention, recompute="selective").float().train()
    exact = encoder(images.float())
    with torch.autocast("cpu", dtype=torch.bfloat16), NoSync():
        rough = encoder(images.float())
        rough.sum().backward()
    assert (rough - exact).norm() <= 0.05 * exact.norm()
    gradients = [p.grad for p in encoder.parameters() if p.grad is not None]
    assert len(gradients) == len(list(encoder.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_an_odd_grid_is_merged_as_timm_does():
    """Grids 36, 18, 9, 5 with windows 9, 9, 9, 5: only the merging pads, which timm does alike."""
    encoder = create_encoder(
        "swinv2_t", resolution=144, window=9, pad=True, embed_dim=32, depths=(1, 2, 1, 1), head_dim=16
    )
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0.2, 0.3)
    twin = SwinTransformerV2(
        img_size=144,
        num_classes=0,
        embed_dim=32,
        depths=(1, 2, 1, 1),
        num_heads=encoder.architecture.num_heads,
        window_size=(9, 9, 9, 5),
        pretrained_window_sizes=encoder.pretrained_windows,
    )
    twin.load_state_dict(encoder.state_dict(), strict=True)
    images = torch.randn(1, 3, 144, 144).double()
    ours, theirs = encoder.double().forward_features(images), twin.double().eval().forward_features(images)
    assert ours.shape == (1, 5, 5, 256)
    assert (ours - theirs).abs().max() <= 1e-11 * theirs.abs().max()


def test_resize_to_any_size_and_back():
    encoder = create_encoder("swinv2_demo", resolution=32, **SMALL)
    before = encoder.layers[0].coords_L2
    encoder.resize((50, 33), pad=True)
    assert encoder.stages[0] == StageWindow(grid=(13, 9), window=(7, 5), shift=(3, 2))  # 50 / 8 and 33 / 8, rounded up
    assert [m.shape[2:] for m in encoder.features(torch.randn(1, 3, 50, 33))] == [(13, 9), (7, 5)]
    encoder.resize(32)
    assert torch.equal(encoder.layers[0].coords_L2, before)
    assert encoder.layers[0].padding_wN is None
    with pytest.raises(ValueError, match="Nearest legal"):
        encoder.resize((50, 33))


def test_every_window_has_a_real_token():
    for size in range(1, 40):
        for window in range(1, 12):
            (stage,) = stage_windows(size, patch_size=1, num_stages=1, window_ratio=1, window=window, pad=True)
            for shifted in (False, True):
                padding = padding_places(stage, shifted=shifted)
                assert padding.shape == (stage.num_windows, stage.window[0] * stage.window[1])
                assert not padding.all(1).any()
                assert (~padding).sum() == size * size


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_a_padded_block_is_one_graph():
    encoder = small(attention="chunked")
    layer = encoder.layers[0]
    for shifted in (False, True):
        torch._dynamo.reset()
        tokens = torch.randn(1, 7, 12, 32, dtype=torch.float64)
        found = torch._dynamo.explain(layer.blocks[0])(tokens, layer.tables(shifted=shifted), None)
        assert (found.graph_count, found.graph_break_count) == (1, 0)
    torch._dynamo.reset()
