import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from swinmim.models.swinv2 import ARCHITECTURES, Architecture, SwinV2, create_encoder, num_parameters

TINY = {"embed_dim": 32, "depths": (2, 2), "head_dim": 16}


def tiny(**options):
    torch.manual_seed(0)
    return create_encoder("swinv2_demo", **{"resolution": 32, **TINY, **options})


def awake(encoder: SwinV2) -> SwinV2:
    """Branch norms away from 0, so that blocks are not the identity."""
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
    return encoder


@pytest.mark.parametrize(
    ("name", "millions"),
    # The published backbones; H and G with their main-branch norms (3 and 7 of them).
    [
        ("swinv2_t", 27.58),
        ("swinv2_s", 48.96),
        ("swinv2_b", 86.89),
        ("swinv2_l", 195.20),
        ("swinv2_h", 655.21 + 3 * 2 * 1408e-6),
        ("swinv2_g", 2997.82 + 7 * 2 * 2048e-6),
    ],
)
def test_parameter_counts(name, millions):
    assert num_parameters(name) / 1e6 == pytest.approx(millions, abs=0.01)


def test_places_of_the_extra_norms():
    with torch.device("meta"):
        for name, expected in [("swinv2_h", [5, 11, 17]), ("swinv2_g", [5, 11, 17, 23, 29, 35, 41])]:
            encoder = create_encoder(name)
            found = {k.rsplit(".", 1)[0] for k in encoder.state_dict() if ".norm3." in k}
            assert found == {f"layers.2.blocks.{j}.norm3" for j in expected}
            assert encoder.architecture.extra_norms == len(expected)
    # One that would end the last stage is the final norm.
    assert Architecture(name="x", embed_dim=32, depths=(2, 6), extra_norm_every=3).extra_norms == 1


def test_extra_norm_is_on_the_main_branch():
    encoder = tiny(extra_norm_every=2)
    assert [k for k in encoder.state_dict() if "norm3" in k] == [
        "layers.0.blocks.1.norm3.weight",
        "layers.0.blocks.1.norm3.bias",
    ]
    torch.nn.init.normal_(encoder.layers[0].blocks[1].norm3.weight)
    tokens = encoder.embed(torch.randn(1, 3, 32, 32))
    assert torch.equal(encoder.encode(tokens)[0], encoder.layers[0].blocks[1].norm3(tokens))


def test_shapes():
    encoder = tiny(in_chans=5, resolution=(32, 64))
    images = torch.randn(2, 5, 32, 64)
    assert encoder.embed(images).shape == (2, 8, 16, 32)
    assert [f.shape for f in encoder.features(images)] == [(2, 32, 8, 16), (2, 64, 4, 8)]
    assert encoder.forward_features(images).shape == (2, 4, 8, 64)
    assert encoder(images).shape == encoder.pool(images).shape == (2, encoder.num_features)
    assert (encoder.in_chans, encoder.stride, encoder.resolution) == (5, 8, (32, 64))


def test_every_block_is_the_identity_at_first():
    encoder = tiny()
    tokens = torch.randn(2, 8, 8, 32)
    assert torch.equal(encoder.encode(tokens)[0], tokens)


def test_initial_weights():
    encoder = tiny()
    attention = encoder.layers[0].blocks[0].attn
    assert torch.all(attention.logit_scale == math.log(10))
    assert torch.all(attention.q_bias == 0)
    assert 0.015 < attention.qkv.weight.std() < 0.025
    assert torch.all(encoder.norm.weight == 1)
    assert torch.all(encoder.layers[1].downsample.norm.weight == 1)
    assert attention.position_bias(encoder.layers[0].tables(shifted=False)).abs().max() < 1  # 16 sigmoid(about 0) - 8


def test_resize_to_the_same_size_changes_no_bit():
    encoder = awake(tiny())
    images = torch.randn(2, 3, 32, 32)
    before = encoder.forward_features(images)
    encoder.resize(64)
    assert encoder.stages[0].window == (8, 8)
    assert encoder.pretrained_windows == ((4, 4), (4, 4))
    assert encoder(torch.randn(1, 3, 64, 64)).isfinite().all()
    encoder.resize(32)
    assert torch.equal(before, encoder.forward_features(images))


def test_a_failed_resize_leaves_the_model_as_it_was():
    encoder = tiny()
    with pytest.raises(ValueError, match="Nearest legal resolutions: 32 and 40"):
        encoder.resize(33)
    assert encoder.resolution == (32, 32)
    encoder(torch.randn(1, 3, 32, 32))


def test_drop_path_keeps_the_mean():
    encoder = tiny(drop_path=0.5)
    rates = [rate for layer in encoder.layers for rate in layer.drop_paths]
    assert rates == pytest.approx([0, 1 / 6, 1 / 3, 0.5])
    last, tokens = encoder.layers[1].train(), torch.ones(4000, 1, 1, 8)
    scale = last.drop_scale(tokens, 1)
    assert scale.shape == (2, 4000, 1, 1, 1)  # per branch and sample
    assert set(scale.unique().tolist()) == {0.0, 2.0}
    assert scale.mean().item() == pytest.approx(1.0, abs=0.1)
    assert torch.all(encoder.layers[0].train().drop_scale(tokens, 0) == 1)
    assert last.eval().drop_scale(tokens, 1) is None
    assert tiny().train().layers[0].drop_scale(tokens, 0) is None


def test_a_dropped_branch_adds_nothing():
    encoder = awake(tiny())
    layer, tokens = encoder.layers[0], torch.randn(2, 8, 8, 32)
    drop = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(2, 2, 1, 1, 1)
    plain = layer.blocks[0](tokens, layer.tables(shifted=False), None)
    dropped = layer.blocks[0](tokens, layer.tables(shifted=False), drop)
    assert torch.equal(dropped[0], tokens[0])
    assert torch.equal(dropped[1], plain[1])


@pytest.mark.parametrize("attention", ["reference", "sdpa"])
def test_sensitive_parts_stay_in_fp32(monkeypatch, attention):
    """Under autocast and with bf16 weights: what is normalised, scaled and put through softmax is fp32.

    The chunked core computes all of it in fp32 on a CPU (test_attention.py compares the errors).
    """
    import torch.nn.functional as functional

    import swinmim.models.attention as module

    seen = set()
    core, softmax, normalize = getattr(module, f"attend_{attention}"), torch.Tensor.softmax, functional.normalize

    def spy(qkv, scale, bias, *masks):
        seen.add((qkv.dtype, scale.dtype, bias.dtype))
        return core(qkv, scale, bias, *masks)

    def softmax_spy(tensor, dim):
        seen.add(tensor.dtype)
        return softmax(tensor, dim=dim)

    def normalize_spy(tensor, **options):
        seen.add(tensor.dtype)
        return normalize(tensor, **options)

    monkeypatch.setattr(module, f"attend_{attention}", spy)
    monkeypatch.setattr(torch.Tensor, "softmax", softmax_spy)
    monkeypatch.setattr(functional, "normalize", normalize_spy)
    expected = {(torch.bfloat16, torch.float32, torch.float32), torch.float32}

    encoder = awake(tiny(attention=attention))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        encoder(torch.randn(1, 3, 32, 32))
    assert seen == expected
    seen.clear()
    encoder.bfloat16()(torch.randn(1, 3, 32, 32, dtype=torch.bfloat16))
    assert seen == expected


def test_casting_the_model_does_not_round_the_coordinates():
    encoder = tiny()
    coords = encoder.layers[0].coords_L2.clone()
    encoder.bfloat16()
    assert torch.equal(encoder.layers[0].coords_L2, coords)


def test_bf16_autocast_is_close_to_fp32():
    encoder = awake(tiny())
    images = torch.randn(2, 3, 32, 32)
    exact = encoder(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encoder(images)
    assert (rough - exact).norm() / exact.norm() < 0.05


def test_a_meta_model_is_complete_once_filled():
    real = awake(tiny())
    with torch.device("meta"):
        encoder = tiny()
    assert all(p.is_meta for p in encoder.parameters())
    encoder.to_empty(device="cpu")
    encoder.load_state_dict(real.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(encoder(images), real(images))


@pytest.mark.slow
def test_a_materialised_giant_is_one_built_directly():
    """G with its depths and main-branch norms, narrow."""
    torch.manual_seed(0)
    options = {"resolution": 64, "embed_dim": 16, "head_dim": 8}
    direct = create_encoder("swinv2_g", **options)
    with torch.device("meta"):
        encoder = create_encoder("swinv2_g", **options)
    for parameter in encoder.materialise().parameters():
        torch.nn.init.constant_(parameter, math.nan)  # as fresh memory may be: whatever is not drawn stays visible
    encoder.reset_parameters()
    expected = direct.state_dict()
    assert encoder.state_dict().keys() == expected.keys()
    for name, tensor in encoder.state_dict().items():
        other = expected[name]
        if other.unique().numel() == 1:  # norms 0 or 1, biases, logit scales
            assert torch.equal(tensor, other), name
        else:  # five standard errors
            spread, few = other.std().item(), tensor.numel() ** -0.5
            assert tensor.std().item() == pytest.approx(spread, rel=5 * few), name
            assert abs(tensor.mean().item()) < 5 * spread * few, name
    buffers = dict(encoder.named_buffers())
    assert buffers.keys() == dict(direct.named_buffers()).keys()
    assert all(torch.equal(buffers[name], tensor) for name, tensor in direct.named_buffers())
    assert encoder(torch.randn(1, 3, 64, 64)).isfinite().all()


PEAK = """
import torch
from swinmim.models.swinv2 import create_encoder
def kib(field):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field))
create_encoder("swinv2_demo")  # what torch itself needs once
with torch.device("meta"):
    encoder = create_encoder("swinv2_t")
before = kib("VmRSS")
encoder.materialise()
size = sum(p.numel() * p.element_size() for p in encoder.parameters())
print((kib("VmHWM") - before) * 1024 / size)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads the peak memory from Linux")
@pytest.mark.slow
def test_materialising_needs_the_memory_of_the_model_once():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 0.9 < float(done.stdout) < 1.3


@pytest.mark.slow
def test_the_whole_family_builds_and_runs_on_meta():
    with torch.device("meta"):
        for name in ARCHITECTURES:
            encoder = create_encoder(name, resolution=64)
            assert encoder(torch.empty(1, 3, 64, 64)).shape == (1, encoder.num_features)


def test_no_buffer_is_saved():
    encoder = tiny()
    assert encoder.state_dict().keys() == dict(encoder.named_parameters()).keys()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_encoder("swinv2_base"), r"Unknown model 'swinv2_base'\. Did you mean 'swinv2_"),
        (lambda: create_encoder("swinv2_t", embed_dims=64), "Did you mean 'embed_dim'"),
        (lambda: create_encoder("swinv2_t", embed_dim=100), "multiple of head_dim; got 100 and 32. Nearest"),
        (lambda: create_encoder("swinv2_t", depths=()), "at least one stage"),
        (lambda: create_encoder("swinv2_t", resolution=200), "192 and 224"),
        (lambda: tiny(position_bias="sine"), "one of log, log_renormalised, linear; got 'sine'"),
        (lambda: tiny(recompute="half"), "one of none, selective, full"),
        (lambda: tiny(recompute=("full",)), "one policy, or one for each of the 2 stages"),
        (lambda: tiny(attention="flash"), "one of auto, reference, sdpa, chunked; got 'flash'"),
        (lambda: tiny(attention="sdpa", chunk=4), "chunk is for the chunked core; got chunk=4 with attention='sdpa'"),
        (lambda: tiny(chunk=0), "a number of windows from 1"),
        (lambda: tiny(chunk=(4, 4, 4)), "each of the 2 stages"),
        (lambda: tiny(drop_path=1.0), "drop_path is a rate"),
        (lambda: tiny(pretrained_windows=(4,)), "each of the 2 stages"),
        (lambda: tiny(pretrained_windows=(0, 0)), "log_renormalised"),
        (lambda: tiny()(torch.randn(1, 3, 64, 64)), r"got \(1, 3, 64, 64\). Call resize"),
    ],
)
def test_wrong_calls(call, message):
    with pytest.raises(ValueError, match=message):
        call()
