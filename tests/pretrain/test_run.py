"""The parts of a pretraining run, without a run."""

import dataclasses

import torch

import swinmim
from pretrain.config import PretrainConfig
from pretrain.run import build_model, rebuild
from swinmim.composition import check


def settings(tmp_path):
    swinmim.save_encoder(swinmim.create_encoder("swinv2_demo", resolution=32), tmp_path / "encoder")
    return check("pretrain", PretrainConfig, ["experiment=demo", f"ckpt={tmp_path / 'encoder'}", "output_dir=unused"])


def test_the_shape_of_a_run_from_an_encoder_reads_no_weights(tmp_path):
    config = settings(tmp_path)
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"damaged")
    with torch.device("meta"):
        assert all(parameter.is_meta for parameter in build_model(config).parameters())


def test_a_bundle_of_a_run_from_an_encoder_is_rebuilt_in_memory(tmp_path):
    plan = {"global_batch_size": 2, "accumulation": 1, "steps_per_epoch": 1, "total_steps": 1}
    info = {"config": dataclasses.asdict(settings(tmp_path)), "plan": plan, "mean": [0.5] * 3, "std": [0.5] * 3}
    assert not any(parameter.is_meta for parameter in rebuild(info).parameters())
