"""torch.compile by block: few graphs, no breaks, no synchronisation, the same numbers."""

import pytest
import torch
from no_sync import NoSync
from torch._dynamo.utils import counters

from swinmim.models.swinv2 import SwinV2, create_encoder

# Tracing looks at .grad of every input and hides the warning by a filter that "error" overrules.
pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

ARCHITECTURE = {"embed_dim": 32, "depths": (4, 2, 6, 2), "head_dim": 16}


def small(**options) -> SwinV2:
    torch.manual_seed(0)
    encoder = create_encoder("swinv2_t", resolution=64, window=4, **ARCHITECTURE, **options)
    for name, parameter in encoder.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return encoder.train()


def step(encoder: SwinV2) -> list[torch.Tensor]:
    torch.manual_seed(1)
    encoder.zero_grad()
    encoder(torch.randn(2, 3, 64, 64)).square().sum().backward()
    return [p.grad.clone() for p in encoder.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attention", "recompute"),
    [("reference", "none"), ("sdpa", "selective"), ("chunked", "none"), ("chunked", "full"), ("chunked", "selective")],
)
def test_few_graphs_and_the_same_gradients(attention, recompute):
    options = {"attention": attention, "recompute": recompute, "drop_path": 0.3, "extra_norm_every": 3}
    expected = step(small(**options))
    encoder = small(**options)
    encoder.compile_blocks(backend="aot_eager")
    for found in (step(encoder), step(encoder)):
        error = sum((a - b).square().sum() for a, b in zip(found, expected, strict=True))
        assert error.sqrt() <= 1e-5 * sum(b.square().sum() for b in expected).sqrt()
    # Stages 1 and 2 with and without shift, stage 3 with and without the extra norm, stage 4.
    assert counters["stats"]["unique_graphs"] <= 8
    assert not counters["graph_break"]


@pytest.mark.parametrize("attention", ["reference", "sdpa", "chunked"])
@pytest.mark.slow
def test_explain_finds_no_break(attention):
    encoder = small(attention=attention)
    layer = encoder.layers[0]
    tokens = torch.randn(2, 16, 16, 32)
    for shifted in (False, True):
        found = torch._dynamo.explain(layer.blocks[0])(tokens, layer.tables(shifted=shifted), None)
        assert (found.graph_count, found.graph_break_count) == (1, 0)


@pytest.mark.parametrize("attention", ["reference", "sdpa", "chunked"])
def test_the_step_never_waits(attention):
    encoder = small(attention=attention, drop_path=0.3)
    with NoSync():
        encoder(torch.randn(2, 3, 64, 64)).square().sum().backward()


@pytest.mark.slow
def test_inductor_gives_the_same_gradients():
    options = {"resolution": 32, "embed_dim": 32, "depths": (2,), "head_dim": 16}
    plain, encoder = (create_encoder("swinv2_demo", **options) for _ in range(2))
    for name, parameter in plain.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.3)
    encoder.load_state_dict(plain.state_dict())
    encoder.compile_blocks()
    images = torch.randn(2, 3, 32, 32)
    for model in (plain, encoder):
        model(images).square().sum().backward()
    pairs = list(zip(encoder.parameters(), plain.parameters(), strict=True))
    error = sum(float((a.grad - b.grad).square().sum()) for a, b in pairs)
    assert error**0.5 <= 1e-5 * sum(float(b.grad.square().sum()) for _, b in pairs) ** 0.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_step_never_waits_on_a_gpu():
    encoder = small(drop_path=0.3).cuda()
    images = torch.randn(2, 3, 64, 64, device="cuda")
    encoder(images).square().sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            out = encoder(images)
        out.float().square().sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
