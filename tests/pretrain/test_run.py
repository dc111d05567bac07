"""The parts of a pretraining run, without a run: what `ckpt` decides, and what of others' weights is continued."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Swinv2Config, Swinv2ForMaskedImageModeling

import swinmim
from pretrain.config import PretrainConfig
from pretrain.run import build_model, rebuild
from swinmim.checkpoint.convert import convert
from swinmim.composition import check
from swinmim.models.swinv2 import SwinV2
from swinmim.training.module import Plan
from swinmim.training.replay import Info


def configured(ckpt, tmp_path, *overrides: str) -> PretrainConfig:
    arguments = ["data.path=builtin:digits", f"ckpt={ckpt}", f"output_dir={tmp_path / 'run'}", *overrides]
    return check("pretrain", PretrainConfig, [*arguments, "trainer.accelerator=cpu"])


@pytest.fixture(scope="module")
def simmim() -> Swinv2ForMaskedImageModeling:
    torch.manual_seed(0)
    config = Swinv2Config(
        image_size=64, window_size=4, embed_dim=32, depths=[2, 1], num_heads=[2, 4], encoder_stride=8,
        pretrained_window_sizes=[4, 4],
    )  # fmt: skip
    model = Swinv2ForMaskedImageModeling(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
    return model


@torch.no_grad()
@pytest.mark.parametrize("converted", [False, True], ids=["in place", "converted"])
def test_the_reconstruction_of_hugging_face_is_reproduced(simmim, tmp_path, converted, caplog):
    simmim.save_pretrained(tmp_path / "hf")
    source = tmp_path / "hf"
    if converted:
        report = convert(source, source := tmp_path / "encoder")
        assert "mask token and decoder of SimMIM: kept" in str(report)
    with caplog.at_level("INFO"):
        model = build_model(configured(source, tmp_path, "resolution=64", "mim.mask_unit=8")).eval()
    assert "mask token and decoder are those of ckpt" in caplog.text
    images, mask = torch.randn(2, 3, 64, 64), torch.rand(2, 8, 8) < 0.6
    theirs = simmim(images, bool_masked_pos=mask.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1))
    loss, prediction = model(images, mask)
    torch.testing.assert_close(prediction, theirs.reconstruction, rtol=0, atol=1e-5 * prediction.abs().max().item())
    torch.testing.assert_close(loss, theirs.loss, rtol=1e-5, atol=0)


def test_a_decoder_of_another_shape_is_new(simmim, tmp_path, caplog):
    simmim.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "encoder")
    extra = tmp_path / "encoder" / "extra.safetensors"
    tensors = load_file(extra)
    save_file(tensors | {"decoder.0.weight": tensors["decoder.0.weight"][:1]}, extra)
    with caplog.at_level("INFO"):
        model = build_model(configured(tmp_path / "encoder", tmp_path, "resolution=64", "mim.mask_unit=8"))
    assert "mask token and decoder are new" in caplog.text
    assert not torch.equal(model.mask_token, simmim.swinv2.embeddings.mask_token.flatten())


@pytest.mark.parametrize("load_weights", [False, True])
@pytest.mark.slow
def test_ckpt_decides_the_architecture(tmp_path, load_weights, caplog):
    encoder = swinmim.create_encoder(
        "swinv2_t", resolution=64, window=2, embed_dim=32, depths=(1, 2, 1), head_dim=16, in_chans=5
    )
    folder = swinmim.save_encoder(encoder, tmp_path / "encoder")
    for resolution, window in ((64, 2), (128, 4)):
        config = configured(folder, tmp_path, f"resolution={resolution}", "model=swinv2_b", "model.embed_dim=64")
        with caplog.at_level("INFO"), torch.device("cpu" if load_weights else "meta"):
            found: SwinV2 = build_model(config).encoder
        assert (found.architecture.depths, found.in_chans, found.architecture.name) == ((1, 2, 1), 5, "swinv2_t")
        assert found.stages[0].window == (window, window)
    assert ("model=swinv2_b has no effect beside ckpt" in caplog.text) == load_weights
    if load_weights:
        assert torch.equal(found.patch_embed.proj.weight, encoder.patch_embed.proj.weight)


def test_a_converted_folder_says_where_it_comes_from(tmp_path, simmim):
    simmim.save_pretrained(tmp_path / "hf")
    convert(tmp_path / "hf", tmp_path / "encoder")
    manifest = json.loads((tmp_path / "encoder" / "manifest.json").read_text())
    assert manifest["parent"] == str(tmp_path / "hf")
    assert manifest["recipe"] == {"converted_from": "huggingface"}


def settings(tmp_path):
    swinmim.save_encoder(swinmim.create_encoder("swinv2_demo", resolution=32), tmp_path / "encoder")
    return check("pretrain", PretrainConfig, ["experiment=demo", f"ckpt={tmp_path / 'encoder'}", "output_dir=unused"])


def test_the_shape_of_a_run_from_an_encoder_reads_no_weights(tmp_path):
    config = settings(tmp_path)
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"damaged")
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in build_model(config).parameters())


def test_a_bundle_of_a_run_from_an_encoder_is_rebuilt_in_memory(tmp_path):
    info = Info(
        label="pretrain",
        config=dataclasses.asdict(settings(tmp_path)),
        precision="32-true",
        plan=Plan(global_batch_size=2, accumulation=1, steps_per_epoch=1, total_steps=1),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        step=1,
        checkpoint="",
    )
    assert not any(parameter.is_meta for parameter in rebuild(info).parameters())
