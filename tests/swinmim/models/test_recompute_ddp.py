"""The recompute policies under DistributedDataParallel: two processes, gloo."""

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from swinmim.models.swinv2 import SwinV2, create_encoder

POLICIES = ("none", "selective", "full", ("full", "selective"))
CORES = ("reference", "chunked")
pytestmark = pytest.mark.slow


def small(**options) -> SwinV2:
    torch.manual_seed(0)
    sizes = {"resolution": 32, "embed_dim": 32, "depths": (2, 2), "head_dim": 16, "drop_path": 0.2}
    encoder = create_encoder("swinv2_demo", **sizes, **options)
    for name, parameter in encoder.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    return encoder.train()


def step(model: torch.nn.Module, rank: int) -> None:
    torch.manual_seed(10 + rank)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = {}
    for core in CORES:
        for policy in POLICIES:
            model = DistributedDataParallel(small(attention=core, recompute=policy))
            step(model, rank)
            step(model, rank)  # gradients of a second pass are added to those of the first
            found[core, policy] = [p.grad for p in model.module.parameters()]
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_gradients_are_those_of_none_and_of_one_process(tmp_path):
    spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for core in CORES:
        alone = small(attention=core)
        for rank in (0, 1, 0, 1):
            step(alone, rank)
        for policy in POLICIES:
            for a, b, none, p in zip(
                first[core, policy], second[core, policy], first[core, "none"], alone.parameters(), strict=True
            ):
                assert torch.equal(a, b)
                assert torch.equal(a, none)
                torch.testing.assert_close(a, p.grad / 2, rtol=1e-4, atol=1e-5)
