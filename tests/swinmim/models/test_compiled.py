"""Code of its own for each shape: no limit of recompilations, nothing compiled in evaluation."""

import copy
import pickle

import pytest
import torch
from torch._dynamo.utils import counters

from swinmim.models.compiled import CompileCount, Compiled, own_code
from swinmim.models.swinv2 import SwinV2, create_encoder

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def demo() -> SwinV2:
    encoder = create_encoder("swinv2_demo", resolution=32, embed_dim=16, head_dim=8)
    encoder.compile_blocks(backend="eager")
    return encoder


def scaled(tensor: torch.Tensor, factor: float, *, more: float = 1.0) -> torch.Tensor:
    return tensor * factor + more


def test_own_code_is_the_same_function_elsewhere():
    first, second = own_code(scaled, "first"), own_code(scaled, "second")
    assert first(torch.ones(1), 2.0).item() == second(torch.ones(1), 2.0, more=1.0).item() == 3.0
    assert len({id(f.__code__) for f in (scaled, first, second)}) == 3
    assert (first.__name__, first.__code__.co_name) == ("first", "first")


@pytest.mark.slow
def test_more_shapes_than_torch_allows_for_one_code():
    limit = torch._dynamo.config.recompile_limit
    compiled = Compiled(scaled, backend="eager")
    for rows in range(1, limit + 3):
        assert torch.equal(compiled(rows, torch.ones(rows), 2.0), torch.full((rows,), 3.0))
    compiled(1, torch.ones(1), 2.0)
    assert graphs() == limit + 2
    alone = torch.compile(own_code(scaled, "alone"), backend="eager", dynamic=False, fullgraph=True)
    for rows in range(1, limit + 1):
        alone(torch.ones(rows), 2.0)
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):  # what it is for
        alone(torch.ones(limit + 1), 2.0)


@pytest.mark.slow
def test_training_on_any_number_of_batch_sizes_and_resolutions():
    encoder = demo().train()
    for batch in range(1, 11):
        encoder(torch.randn(batch, 3, 32, 32)).sum().backward()
    assert graphs() == 10 * 3
    encoder.resize(64)
    encoder(torch.randn(1, 3, 64, 64)).sum().backward()
    encoder.resize(32)
    encoder(torch.randn(1, 3, 32, 32)).sum().backward()
    assert graphs() == 11 * 3


@pytest.mark.slow
def test_evaluation_runs_uncompiled_in_all_its_ways():
    encoder = demo().train()
    encoder(torch.randn(2, 3, 32, 32)).sum().backward()
    before = graphs()
    with torch.no_grad():
        encoder(torch.randn(5, 3, 32, 32))
    encoder.eval()
    encoder(torch.randn(3, 3, 32, 32)).sum().backward()
    with torch.inference_mode():
        encoder(torch.randn(1, 3, 32, 32))
    assert graphs() == before == 3


@pytest.mark.slow
def test_two_models_of_one_process_do_not_share_a_limit():
    for width in range(8, 8 * 10, 8):
        encoder = create_encoder("swinv2_demo", resolution=32, embed_dim=width, head_dim=8).train()
        encoder.compile_blocks(backend="eager")
        encoder(torch.randn(1, 3, 32, 32)).sum().backward()
    assert graphs() == 9 * 3


@pytest.mark.slow
def test_a_compiled_model_is_copied_and_saved_like_another():
    encoder = demo().train()
    images = torch.randn(2, 3, 32, 32)
    expected = encoder(images)
    for twin in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(twin(images), expected)
    assert set(encoder.state_dict()) == set(create_encoder("swinv2_demo", embed_dim=16, head_dim=8).state_dict())


@pytest.mark.slow
def test_count_of_graphs_and_of_the_time_for_both_passes():
    encoder = create_encoder("swinv2_demo", resolution=32, embed_dim=16, head_dim=8).train()
    encoder.compile_blocks(backend="aot_eager")
    images, count = torch.randn(2, 3, 32, 32), CompileCount()
    count.open()
    loss = encoder(images).sum()
    assert count.graphs == 3
    forward = count.seconds
    assert forward > 0
    loss.backward()
    assert count.seconds > forward
    encoder(images).sum().backward()
    assert count.graphs == 3
    count.close()
    count.close()
    encoder(images[:1]).sum().backward()
    assert count.graphs == 3
