"""The attention cores against the literal one."""

import pytest
import torch

from swinmim.models.attention import attend_reference, attend_sdpa, choose_core
from swinmim.models.chunked_attention import attend_chunked
from swinmim.models.swinv2 import Architecture, SwinV2
from swinmim.models.windows import StageWindow, shift_regions

CORES = {"sdpa": attend_sdpa, "chunked": attend_chunked}
NAMES = ("q", "k", "v", "scale", "bias")


def window(height: int, width: int, shifted: bool) -> StageWindow:
    return StageWindow((2 * height, 3 * width), (height, width), (height // 2, width // 2) if shifted else (0, 0))


def inputs(stage: StageWindow, dtype=torch.float32, samples: int = 1, heads: int = 2):
    torch.manual_seed(0)
    N = stage.window[0] * stage.window[1]
    qkv = torch.randn(samples * stage.num_windows, N, 3, heads, 16)
    scale = torch.tensor([5.0, 60.0][:heads]).view(-1, 1, 1)
    bias = 3 * torch.randn(heads, N, N)
    regions = shift_regions(stage) if any(stage.shift) else None
    return (
        [t.to(dtype).requires_grad_() for t in (qkv, scale, bias)],
        regions,
        torch.randn(qkv[:, :, 0].shape).to(dtype),
    )


def values_and_gradients(core, tensors, regions, grad, **options):
    out = core(*tensors, regions, **options)
    qkv, scale, bias = torch.autograd.grad(out, tensors, grad)
    return {"out": out.detach(), **dict(zip(NAMES, (*qkv.unbind(2), scale, bias), strict=True))}


def assert_agree(found, expected, tolerance):
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert (found[name] - tensor).norm() <= tolerance * tensor.norm(), name


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("side", [(4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (24, 24), (4, 6)])
def test_cores_agree(core, side, shifted):
    tensors, regions, grad = inputs(window(*side, shifted=shifted))
    expected = values_and_gradients(attend_reference, tensors, regions, grad)
    assert_agree(values_and_gradients(CORES[core], tensors, regions, grad), expected, 1e-5)


@pytest.mark.parametrize("chunk", [1, 4, 5, 100])
def test_any_chunk_gives_the_same(chunk):
    """5 divides neither the windows of a grid (6) nor those of the batch (12)."""
    tensors, regions, grad = inputs(window(4, 6, True), torch.float64, samples=2)
    expected = values_and_gradients(attend_reference, tensors, regions, grad)
    assert_agree(values_and_gradients(attend_chunked, tensors, regions, grad, chunk=chunk), expected, 1e-12)


def test_chunked_gradients_are_derivatives():
    tensors, regions, _ = inputs(window(2, 2, True), torch.float64)
    with torch.no_grad():
        tensors[1].fill_(3.0)  # at 60 the softmax is too steep for finite differences
    assert torch.autograd.gradcheck(lambda *t: attend_chunked(*t, regions, chunk=4), tensors, fast_mode=True)


@pytest.mark.parametrize("core", CORES)
def test_vectors_of_zero_have_the_same_finite_gradient(core):
    tensors, regions, grad = inputs(window(4, 4, False))
    with torch.no_grad():
        tensors[0][0, 0] = 0
        tensors[0][0, 1] *= 1e-7  # below the eps of the norm
    expected = values_and_gradients(attend_reference, tensors, regions, grad)
    found = values_and_gradients(CORES[core], tensors, regions, grad)
    assert all(tensor.isfinite().all() for tensor in found.values())
    assert_agree(found, expected, 1e-5)


@pytest.mark.parametrize("core", CORES)
def test_bf16_is_no_worse_than_the_literal_core(core):
    tensors, regions, grad = inputs(window(8, 8, True), torch.bfloat16)
    tensors[1:] = [t.detach().float().requires_grad_() for t in tensors[1:]]
    with torch.no_grad():
        tensors[1].fill_(30.0)  # of 10 at the start and 100 at most
    exact_tensors = [t.detach().double().requires_grad_() for t in tensors]
    exact = values_and_gradients(attend_reference, exact_tensors, regions, grad.double())
    literal = values_and_gradients(attend_reference, tensors, regions, grad)
    found = values_and_gradients(CORES[core], tensors, regions, grad)
    for name, tensor in exact.items():
        assert (found[name] - tensor).norm() <= 1.05 * (literal[name] - tensor).norm(), name


# opcheck itself looks at .grad of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.slow
def test_torch_knows_all_of_the_operator():
    tensors, regions, _ = inputs(window(2, 2, True), heads=2)
    torch.library.opcheck(torch.ops.swinmim.chunked_attention.default, (*tensors, regions, None, 4))


def saved_shapes(attention: str) -> list[torch.Size]:
    small = Architecture(name="small", embed_dim=32, depths=(2, 2), head_dim=16, window_ratio=8)
    encoder = SwinV2(small, resolution=64, window=4, attention=attention)
    shapes: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (shapes.append(t.shape), t)[1], lambda t: t):
        encoder(torch.randn(3, 3, 64, 64))
    return [shape for shape in shapes if len(shape) > 2 and shape[-2:] == (16, 16)]


def test_the_chunked_core_keeps_only_the_bias_square():
    assert saved_shapes("reference")
    assert {shape[0] for shape in saved_shapes("chunked")} == {2, 4}  # (h, N, N), one for each stage
    assert all(len(shape) == 3 for shape in saved_shapes("chunked"))


def test_auto_chooses_by_device():
    cpu, cuda, meta = (torch.device(name) for name in ("cpu", "cuda", "meta"))
    assert [choose_core("auto", None, device) for device in (cpu, cuda, meta)] == ["chunked", "sdpa", "reference"]
    assert choose_core("auto", 8, cuda) == "chunked"
    assert choose_core("reference", None, cuda) == "reference"


def test_chunk_reaches_its_stage():
    small = Architecture(name="small", embed_dim=32, depths=(1, 1), head_dim=16, window_ratio=8)
    encoder = SwinV2(small, resolution=32, chunk=(4, 0))
    assert [layer.blocks[0].attn.chunk for layer in encoder.layers] == [4, None]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("side", [6, 8, 12, 24])
def test_cores_agree_on_a_gpu(core, side, shifted, dtype):
    tensors, regions, grad = inputs(window(side, side, shifted), dtype)
    tensors = [
        tensors[0].detach().cuda().requires_grad_(),
        *(t.detach().float().cuda().requires_grad_() for t in tensors[1:]),
    ]
    regions, grad = None if regions is None else regions.cuda(), grad.cuda()
    exact_tensors = [t.detach().double().requires_grad_() for t in tensors]
    exact = values_and_gradients(attend_reference, exact_tensors, regions, grad.double())
    literal = values_and_gradients(attend_reference, tensors, regions, grad)
    found = values_and_gradients(CORES[core], tensors, regions, grad)
    for name, tensor in exact.items():
        floor = 1e-5 * tensor.norm()
        assert (found[name] - tensor).norm() <= 1.25 * (literal[name] - tensor).norm() + floor, name
