"""The encoder inside transformers' heads: forward, backward, saved and read again."""

import importlib
import sys

import pytest
import torch
from made_folders import made_encoder
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

import swinmim
from swinmim.checkpoint.encoder import save_encoder
from swinmim.errors import CheckpointError, ConfigError

STAGES = {"depths": (1, 1, 1, 1), "window_ratio": 16}


@pytest.fixture(scope="module")
def encoder():
    return made_encoder(**STAGES)


@pytest.fixture(scope="module")
def folder(encoder, tmp_path_factory):
    return save_encoder(encoder, tmp_path_factory.mktemp("made") / "encoder")


@pytest.fixture(scope="module")
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_maps_are_those_of_the_encoder(encoder, folder, images):
    backbone = swinmim.hf_backbone(folder).eval()
    output = backbone(images)
    assert backbone.channels == [16, 32, 64, 128]
    for ours, theirs in zip(encoder.features(images), output.feature_maps, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=0)
    assert output.hidden_states is None
    assert len(backbone(images, output_hidden_states=True).hidden_states) == 4
    assert isinstance(backbone(images, return_dict=False), tuple)
    few = swinmim.hf_backbone(folder, out_features=["stage4", "stage2"]).eval()
    assert few.out_features == ["stage2", "stage4"]
    torch.testing.assert_close(few(images).feature_maps[0], output.feature_maps[1], rtol=0, atol=0)


@torch.no_grad()
def test_other_sizes_keep_the_window(folder):
    backbone = swinmim.hf_backbone(folder).eval()
    maps = backbone(torch.randn(1, 3, 75, 130)).feature_maps
    assert [tuple(one.shape[2:]) for one in maps] == [(19, 33), (10, 17), (5, 9), (3, 5)]
    assert backbone.encoder.stages[0].window == (4, 4)
    assert swinmim.hf_backbone(folder, resolution=128).encoder.stages[0].window == (8, 8)


def test_options_reach_the_encoder(folder):
    encoder = swinmim.hf_backbone(folder, drop_path=0.2, recompute="full").encoder
    assert encoder.drop_path == 0.2
    assert encoder.recompute == ("full",) * 4


DETECTOR = {
    "encoder_hidden_dim": 16, "encoder_in_channels": [32, 64, 128], "feat_strides": [8, 16, 32], "encoder_layers": 1,
    "encoder_ffn_dim": 16, "encoder_attention_heads": 2, "d_model": 16, "num_queries": 10, "decoder_layers": 2,
    "decoder_in_channels": [16, 16, 16], "decoder_ffn_dim": 16, "decoder_attention_heads": 2, "num_labels": 3,
    "num_denoising": 2,
}  # fmt: skip
SEGMENTER = {
    "feature_size": 32, "mask_feature_size": 32, "hidden_dim": 32, "encoder_feedforward_dim": 16, "dim_feedforward": 16,
    "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2, "num_queries": 5, "num_labels": 3,
    "train_num_points": 50,
}  # fmt: skip
UPERNET = {
    "hidden_size": 16,
    "auxiliary_in_channels": 64,
    "auxiliary_channels": 8,
    "pool_scales": [1, 2],
    "num_labels": 3,
}
BOXES = {"class_labels": torch.tensor([0, 1]), "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.3, 0.3, 0.2, 0.4]])}
MASKS = {"mask_labels": [torch.ones(2, 64, 64)] * 2, "class_labels": [torch.tensor([0, 1])] * 2}
HEADS = {
    "UPerNet": (UperNetForSemanticSegmentation, UperNetConfig, UPERNET, {"labels": torch.ones(2, 64, 64).long()}),
    "Mask2Former": (Mask2FormerForUniversalSegmentation, Mask2FormerConfig, SEGMENTER, MASKS),
    "D-FINE": (DFineForObjectDetection, DFineConfig, DETECTOR, {"labels": [BOXES] * 2}),
    "RT-DETRv2": (RTDetrV2ForObjectDetection, RTDetrV2Config, DETECTOR, {"labels": [BOXES] * 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad:UserWarning")  # transformers' losses
def test_a_head_learns_and_is_saved(encoder, folder, images, tmp_path, head):
    if head != "UPerNet":
        pytest.importorskip("scipy", reason="its loss matches by scipy's linear_sum_assignment")
    model_type, config_type, sizes, labels = HEADS[head]
    coarse = None if sizes is not DETECTOR else ["stage2", "stage3", "stage4"]
    torch.manual_seed(0)
    backbone = swinmim.hf_backbone(folder, out_features=coarse)
    model = model_type(config_type(backbone_config=backbone.config, **sizes)).train()
    (inside,) = (module for module in model.modules() if isinstance(module, type(backbone)))
    for name, parameter in encoder.named_parameters():
        assert torch.equal(inside.encoder.get_parameter(name), parameter)
    model(pixel_values=images, **labels).loss.backward()
    learning = {name for name, parameter in inside.encoder.named_parameters() if parameter.requires_grad}
    assert {name for name, _ in encoder.named_parameters()} - learning == {"norm.weight", "norm.bias"}
    for name in learning:
        assert inside.encoder.get_parameter(name).grad.isfinite().all()
        assert inside.encoder.get_parameter(name).grad.any(), name
    model.eval().save_pretrained(tmp_path / "saved")
    assert str(folder) not in (tmp_path / "saved" / "config.json").read_text()
    again = model_type.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        ours, theirs = model(pixel_values=images), again(pixel_values=images)
    for field in ("logits", "pred_boxes", "masks_queries_logits"):
        if field in ours:
            torch.testing.assert_close(theirs[field], ours[field], rtol=0, atol=1e-5)


def test_mistakes(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"out_features are of stage1, .*; got 'stgae4'\. Did you mean 'stage4'"):
        swinmim.hf_backbone(folder, out_features=["stgae4"])
    with pytest.raises(CheckpointError, match="nope does not exist"):
        swinmim.hf_backbone(tmp_path / "nope")


def test_without_transformers_the_command_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "swinmim.backbone")
    with pytest.raises(ConfigError, match=r"swinmim.hf_backbone needs transformers.* pip install 'swinmim\[transf"):
        importlib.import_module("swinmim.backbone")
