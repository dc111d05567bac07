import json
from pathlib import Path

import pytest
import torch
from torch import nn

import swinmim
from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from pretrain.simmim import SimMIM
from swinmim import door
from swinmim.composition import check
from swinmim.optim.build import build_optimizer
from swinmim.optim.param_groups import layer_id, param_groups
from swinmim.optim.schedules import ScheduleConfig
from swinmim.optim.settings import OptimConfig

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


@pytest.mark.parametrize(("decay_attention", "keywords"), [(True, ()), (False, ("logit_scale", "cpb_mlp"))])
def test_decay_is_the_official_one_in_pretraining_and_in_fine_tuning(decay_attention, keywords):
    model = base_model()
    optimizer, _ = build_optimizer(
        model,
        OptimConfig(base_lr=1e-4, decay_attention=decay_attention),
        ScheduleConfig(kind="cosine", warmup_steps=1),
        depths=(2, 2, 18, 2),
        rules=PRETRAIN_RULES,
        global_batch_size=2048,
        total_steps=10,
        steps_per_epoch=10,
    )
    found = {name for group in optimizer.param_groups if group["weight_decay"] for name in group["names"]}
    assert found == officially_decayed(model, keywords)
    assert ("encoder.layers.0.blocks.0.attn.logit_scale" in found) == decay_attention


def officially_decayed(model, keywords):
    """optimizer.py: nothing of one axis, no bias, not the mask token, and no name with a keyword in it. Those of SimMIM
    pretraining, "encoder.logit_scale" and "encoder.cpb_mlp", are in no name.
    """
    return {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1
        and not name.endswith(".bias")
        and name != "mask_token"
        and not any(keyword in name for keyword in keywords)
    }


@pytest.mark.slow
def test_the_two_commands_decay_as_published(monkeypatch):
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")
    assert check("pretrain", PretrainConfig, ["experiment=swinv2_b_mim", "data.path=x"]).optim.decay_attention
    fine_tuning = ["experiment=swinv2_b_ft_224", "data.path=x", "ckpt=y"]
    assert not check("finetune", FinetuneConfig, fine_tuning).optim.decay_attention


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
