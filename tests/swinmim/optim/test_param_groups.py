import json
from pathlib import Path

import pytest
import torch
from torch import nn

import swinmim
from pretrain.simmim import SimMIM
from swinmim.optim.param_groups import layer_id, param_groups

GOLDEN = Path(__file__).parents[2] / "golden"
PRETRAIN_RULES = ("bias", "norm", "logit_scale", "cpb_mlp", "mask_token")


def base_model():
    with torch.device("meta"):
        return SimMIM(swinmim.create_encoder("swinv2_b", resolution=192))


def test_every_parameter_is_in_exactly_one_group():
    model = base_model()
    groups = param_groups(model, weight_decay=0.05, depths=(2, 2, 18, 2), layer_decay=0.75, rules=PRETRAIN_RULES)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in model.parameters()}


def test_decayed_names_of_swinv2_b_are_the_golden_ones():
    groups = param_groups(base_model(), weight_decay=0.05, depths=(2, 2, 18, 2), rules=PRETRAIN_RULES)
    decayed = {name for group in groups if group["weight_decay"] for name in group["names"]}
    free = {name for group in groups if not group["weight_decay"] for name in group["names"]}
    golden = json.loads((GOLDEN / "swinv2_b_decay.json").read_text())
    assert sorted(decayed) == golden["decay"]
    assert sorted(free) == golden["no_decay"]


def test_nothing_one_dimensional_decays_and_only_weights_do():
    groups = param_groups(base_model(), weight_decay=0.05, depths=(2, 2, 18, 2), rules=PRETRAIN_RULES)
    for group in groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            if group["weight_decay"]:
                assert parameter.ndim > 1
                assert name.endswith(".weight")
                assert "cpb_mlp" not in name


def test_layer_ids_are_the_official_ones():
    depths = (2, 2, 18, 2)  # N = 24 blocks, 26 levels
    assert layer_id("encoder.patch_embed.proj.weight", depths) == 0
    assert layer_id("mask_token", depths) == 0
    assert layer_id("encoder.layers.0.blocks.0.attn.qkv.weight", depths) == 1
    assert layer_id("encoder.layers.2.blocks.5.norm3.weight", depths) == 10
    assert layer_id("encoder.layers.3.blocks.1.mlp.fc1.bias", depths) == 24
    assert (
        layer_id("encoder.layers.1.downsample.reduction.weight", depths) == 2
    )  # leaves stage 1, whose last block is 2
    assert layer_id("encoder.layers.3.downsample.norm.weight", depths) == 22
    assert layer_id("encoder.norm.weight", depths) == 25
    assert layer_id("head.weight", depths) == 25
    with pytest.raises(ValueError, match="parameter 'tail' has no layer id"):
        layer_id("tail", depths)


def test_layer_decay_scales_of_swinv2_b():
    with torch.device("meta"):
        encoder = swinmim.create_encoder("swinv2_b", resolution=224)
        model = nn.ModuleDict({"encoder": encoder, "head": nn.Linear(1024, 10)})
    rules = ("bias", "norm", "logit_scale", "cpb_mlp")
    groups = param_groups(model, weight_decay=0.05, depths=(2, 2, 18, 2), layer_decay=0.75, rules=rules)
    scale = {name: group["lr_scale"] for group in groups for name in group["names"]}
    assert len({group["lr_scale"] for group in groups}) == 26
    assert scale["head.weight"] == 1.0
    assert scale["encoder.patch_embed.proj.weight"] == pytest.approx(7.5e-4, rel=0.01)  # recipe.md, 2.3


def test_rule_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match="no-decay rule 'mask_token' matches no parameter of Linear"):
        param_groups(nn.Linear(2, 2), weight_decay=0.1, depths=(1,), rules=("bias", "mask_token"))
