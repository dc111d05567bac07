import pytest
import torch
from torch import nn

from pretrain.simmim import SimMIM
from swinmim.models.architecture import get_architecture
from swinmim.models.swinv2 import SwinV2
from swinmim.training.settings import StrategyConfig, ZeroConfig
from swinmim.training.strategies.build import build_strategy


def build(seed=0):
    torch.manual_seed(seed)
    return SimMIM(SwinV2(get_architecture("swinv2_demo", embed_dim=16, head_dim=8), resolution=32), mask_unit=4)


def strategy(kind, **settings):
    config = StrategyConfig(kind=kind, **settings)
    return build_strategy(config, device=torch.device("cpu"), bf16=False, batch_size=1)


@pytest.mark.parametrize("kind", ["single", "ddp"])
def test_whole_networks_are_clipped_by_the_module_and_can_go_back(kind):
    answers = strategy(kind)
    network = nn.Linear(2, 1)
    assert not answers.clips()
    assert answers.grad_norm() is None
    assert answers.goes_back()
    assert answers.full_weights(network).keys() == {"weight", "bias"}


@pytest.mark.parametrize("kind", ["single", "ddp"])
def test_a_network_on_the_meta_device_becomes_its_twin(kind):
    with torch.device("meta"):
        network = build()
    strategy(kind).materialise(network, build)
    images, mask = torch.rand(2, 3, 32, 32), torch.zeros(2, 8, 8, dtype=torch.bool)
    mask[:, ::2] = True
    loss, _ = network(images, mask)
    assert loss == build()(images, mask)[0]  # tables of the windows too
    assert loss != build(seed=1)(images, mask)[0]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_clips_by_itself_and_does_not_go_back(stage):
    pytest.importorskip("deepspeed")
    answers = strategy("deepspeed", zero=ZeroConfig(stage=stage))
    assert answers.clips()
    assert not answers.goes_back()
