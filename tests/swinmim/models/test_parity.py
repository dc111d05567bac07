"""SwinV2 against timm's SwinTransformerV2 and Hugging Face's Swinv2Model, fp32, weights drawn at random.

Norm gammas are drawn too: at initialisation every block is the identity, so fresh weights would prove nothing.
"""

import pytest
import torch
from timm.models.swin_transformer_v2 import SwinTransformerV2
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from swinmim.checkpoint.names import to_huggingface
from swinmim.models.attention import attend_reference
from swinmim.models.chunked_attention import attend_chunked
from swinmim.models.swinv2 import Architecture, SwinV2, create_encoder

FOUR_STAGES = Architecture(name="small", embed_dim=32, depths=(2, 2, 2, 1), head_dim=16)
TWO_STAGES = Architecture(name="two", embed_dim=32, depths=(2, 2), head_dim=16)


def randomise(model: nn.Module, seed: int = 0, logit_scale_spread: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.3 * noise)
            elif name.endswith("logit_scale"):
                parameter.copy_(2.3 + logit_scale_spread * noise)
            elif "cpb_mlp" in name:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(0.1 * noise)


def timm_twin(encoder: SwinV2) -> SwinTransformerV2:
    a = encoder.architecture
    renormalised = encoder.position_bias == "log_renormalised"
    twin = SwinTransformerV2(
        img_size=encoder.resolution,
        patch_size=a.patch_size,
        num_classes=0,
        embed_dim=a.embed_dim,
        depths=a.depths,
        num_heads=a.num_heads,
        window_size=tuple(s.window for s in encoder.stages),
        drop_path_rate=0.0,
        pretrained_window_sizes=(0,) * a.num_stages if renormalised else encoder.pretrained_windows,
    )
    twin.load_state_dict(encoder.state_dict(), strict=True)
    return twin


def fp32_noise(output: torch.Tensor) -> float:
    """1e-5 of the largest value, about 3 after the norm. Against fp64, timm itself errs by 0.9e-5 at 64 px (seed 0) and
    1.3e-5 (seed 1), ours by 0.8e-5 and 1.1e-5; two such errors do not fit under 1e-5 apart."""
    return 1e-5 * output.detach().abs().max().item()


def gradients(model: nn.Module, features: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    loss = sum((f * torch.randn(f.shape, generator=generator).to(f.dtype)).sum() for f in features)
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def relative_error(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    difference = sum((ours[n] - theirs[n]).double().square().sum() for n in ours)
    return float((difference / sum(theirs[n].double().square().sum() for n in theirs)) ** 0.5)


SIZES = [
    pytest.param(FOUR_STAGES, 64, None, None, id="64"),
    pytest.param(FOUR_STAGES, 64, None, (2, 2, 2, 1), id="64-pretrained"),
    pytest.param(FOUR_STAGES, 192, None, None, id="192"),
    pytest.param(FOUR_STAGES, 192, None, (6, 6, 6, 3), id="192-pretrained"),
    pytest.param(FOUR_STAGES, (64, 128), None, None, id="64x128"),
    pytest.param(FOUR_STAGES, (64, 128), 4, (3, 3, 3, 2), id="64x128-pretrained-shifted-on-one-axis"),
    pytest.param(TWO_STAGES, (32, 64), 4, None, id="two-stages"),
]


@pytest.mark.parametrize(("architecture", "resolution", "window", "pretrained"), SIZES)
def test_equals_timm(architecture, resolution, window, pretrained):
    encoder = SwinV2(architecture, resolution=resolution, window=window, pretrained_windows=pretrained)
    randomise(encoder)
    twin = timm_twin(encoder)
    images = torch.randn(2, 3, *encoder.resolution, generator=torch.Generator().manual_seed(2))
    ours, theirs = encoder.forward_features(images), twin.forward_features(images)
    assert (ours - theirs).abs().max() <= fp32_noise(theirs)
    assert relative_error(gradients(encoder, [ours]), gradients(twin, [theirs])) <= 1e-5
    intermediates = twin.forward_intermediates(images, intermediates_only=True)
    for a, b in zip(encoder.features(images), intermediates, strict=True):
        assert (a - b).abs().max() <= 1e-5 * b.abs().max().clamp(min=1)


@pytest.mark.parametrize("attention", ["reference", "sdpa", "chunked"])
@pytest.mark.parametrize(("architecture", "resolution", "window", "pretrained"), SIZES)
def test_equals_timm_in_fp64(architecture, resolution, window, pretrained, attention):
    """With heads at the clamp of the logit scale, where fp32 rounding alone is 3e-5 in either model."""
    options = {"resolution": resolution, "window": window, "pretrained_windows": pretrained}
    encoder = SwinV2(architecture, **options, attention=attention)
    randomise(encoder, seed=3, logit_scale_spread=3)
    twin = timm_twin(encoder).double()
    images = torch.randn(1, 3, *encoder.resolution, generator=torch.Generator().manual_seed(2)).double()
    ours, theirs = encoder.double().forward_features(images), twin.forward_features(images)
    assert (ours - theirs).abs().max() <= 1e-11
    assert relative_error(gradients(encoder, [ours]), gradients(twin, [theirs])) <= 1e-11


def test_renormalised_coordinates_are_timm_without_pretrained_windows():
    encoder = SwinV2(TWO_STAGES, resolution=64, pretrained_windows=(2, 2), position_bias="log_renormalised")
    randomise(encoder)
    images = torch.randn(1, 3, 64, 64)
    theirs = timm_twin(encoder).forward_features(images)
    assert (encoder.forward_features(images) - theirs).abs().max() <= fp32_noise(theirs)


def flops(model: nn.Module) -> int:
    with FlopCounterMode(display=False) as counter:
        model.forward_features(torch.empty(2, 3, 192, 192, device="meta")).sum().backward()
    return counter.get_total_flops()


@pytest.fixture(scope="module")
def flops_of_timm() -> int:
    with torch.device("meta"):
        return flops(timm_twin(create_encoder("swinv2_t", resolution=192)))


@pytest.mark.parametrize("attention", ["reference", "sdpa", "chunked"])
@pytest.mark.slow
def test_a_step_has_the_flops_of_timm(attention, flops_of_timm):
    """swinv2_t at 192 px on the meta device. What the chunked core computes a second time, q k^T, is 1.4 % more."""
    with torch.device("meta"):
        encoder = create_encoder("swinv2_t", resolution=192, attention=attention)
    again = 0
    if attention == "chunked":
        for stage, dim, depth in zip(encoder.stages, encoder.architecture.stage_dims, (2, 2, 6, 2), strict=True):
            tokens = stage.window[0] * stage.window[1]
            again += depth * 2 * (2 * stage.num_windows) * tokens**2 * dim
    assert again < 0.015 * flops_of_timm
    assert flops(encoder) - again == pytest.approx(flops_of_timm, rel=0.01)


def test_the_flops_of_the_chunked_core_are_counted():
    """Its products beside those of the literal core: five instead of four in the backward pass."""
    found = {}
    for core, attend in (("reference", attend_reference), ("chunked", attend_chunked)):
        qkv = torch.empty(8, 16, 3, 2, 16, device="meta", requires_grad=True)
        scale, bias = torch.empty(2, 1, 1, device="meta"), torch.empty(2, 16, 16, device="meta")
        with FlopCounterMode(display=False) as counter:
            out = attend(qkv, scale, bias)
            forward = counter.get_total_flops()
            out.sum().backward()
        found[core] = forward, counter.get_total_flops() - forward
    (forward, backward), (ours_forward, ours_backward) = found["reference"], found["chunked"]
    assert ours_forward == forward == 2 * 2 * 8 * 2 * 16 * 16 * 16
    assert ours_backward * 4 == backward * 5


def hf_twin(encoder: SwinV2) -> nn.Module:
    from transformers import Swinv2Config, Swinv2Model

    a = encoder.architecture
    config = Swinv2Config(
        image_size=encoder.resolution,
        embed_dim=a.embed_dim,
        depths=list(a.depths),
        num_heads=list(a.num_heads),
        window_size=encoder.stages[0].window[0],
        pretrained_window_sizes=[w[0] for w in encoder.pretrained_windows],
        drop_path_rate=0.0,
    )
    twin = Swinv2Model(config, add_pooling_layer=False)
    twin.load_state_dict(to_huggingface(encoder.state_dict()), strict=True)
    return twin


@pytest.mark.parametrize(
    ("architecture", "resolution", "window", "pretrained"),
    [
        pytest.param(FOUR_STAGES, 64, None, None, id="64"),
        pytest.param(FOUR_STAGES, 192, None, (6, 6, 6, 3), id="192-pretrained"),
        # Hugging Face clamps both axes by the height, so a non-square grid must not be clamped at all.
        pytest.param(TWO_STAGES, (64, 96), 4, (3, 3), id="64x96-pretrained"),
    ],
)
def test_equals_hugging_face(architecture, resolution, window, pretrained):
    encoder = SwinV2(architecture, resolution=resolution, window=window, pretrained_windows=pretrained)
    randomise(encoder)
    twin = hf_twin(encoder)
    images = torch.randn(2, 3, *encoder.resolution, generator=torch.Generator().manual_seed(2))
    ours = encoder.forward_features(images).flatten(1, 2)
    theirs = twin(images).last_hidden_state
    assert (ours - theirs).abs().max() <= fp32_noise(theirs)
    our_gradients = to_huggingface(gradients(encoder, [ours]))
    assert relative_error(our_gradients, gradients(twin, [theirs])) <= 1e-5
