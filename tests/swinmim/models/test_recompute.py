"""The recompute policies: same gradients, less kept."""

import pytest
import torch

from swinmim.models.swinv2 import SwinV2, create_encoder


def small(**options) -> SwinV2:
    torch.manual_seed(0)
    encoder = create_encoder("swinv2_demo", resolution=32, embed_dim=32, depths=(2, 2), head_dim=16, **options)
    for name, parameter in encoder.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return encoder.train()


def gradients(encoder: SwinV2) -> list[torch.Tensor]:
    torch.manual_seed(1)
    encoder(torch.randn(2, 3, 32, 32)).square().sum().backward()
    return [p.grad for p in encoder.parameters()]


@pytest.mark.parametrize("attention", ["reference", "sdpa", "chunked"])
@pytest.mark.parametrize("recompute", ["selective", "full", ("full", "none"), ("selective", "full")])
def test_gradients_are_those_of_none(recompute, attention):
    expected = gradients(small(attention=attention, drop_path=0.2))
    found = gradients(small(attention=attention, drop_path=0.2, recompute=recompute))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


class Counter(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls[func.name()] = self.calls.get(func.name(), 0) + 1
        return func(*args, **(kwargs or {}))


def calls(recompute: str) -> dict[str, int]:
    with Counter() as counter:
        gradients(small(recompute=recompute))
    return counter.calls


def test_selective_runs_no_product_and_no_attention_twice():
    none, selective, full = (calls(policy) for policy in ("none", "selective", "full"))
    for name in ("aten::addmm", "swinmim::chunked_attention"):
        assert selective[name] == none[name] < full[name]
    assert none["aten::gelu"] < selective["aten::gelu"] == full["aten::gelu"]


def kept_bytes(recompute: str) -> int:
    """Memory that the forward pass leaves behind."""
    encoder = create_encoder("swinv2_demo", resolution=64, embed_dim=32, head_dim=16, recompute=recompute).train()
    images = torch.randn(4, 3, 64, 64)
    with torch.profiler.profile(profile_memory=True) as profile:
        out = encoder(images)
    del out
    return sum(event.self_cpu_memory_usage for event in profile.key_averages())


def test_every_policy_keeps_less_than_the_one_before():
    none, selective, full = (kept_bytes(policy) for policy in ("none", "selective", "full"))
    assert selective < 0.8 * none
    assert full < 0.5 * selective


def test_nothing_is_kept_in_evaluation():
    encoder = small(recompute="full").eval()
    with torch.no_grad():
        encoder(torch.randn(1, 3, 32, 32))
