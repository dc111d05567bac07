"""The Python API of the README, used as from a notebook: no Hydra, no Lightning."""

import subprocess
import sys

import pytest
import torch

import swinmim
from pretrain.simmim import SimMIM


@pytest.mark.slow
def test_the_documented_calls(tmp_path):
    encoder = swinmim.create_encoder("swinv2_t", resolution=64, in_chans=3)
    images_BCHW = torch.randn(2, 3, 64, 64)
    maps = encoder.features(images_BCHW)
    assert [tuple(m.shape) for m in maps] == [(2, 96, 16, 16), (2, 192, 8, 8), (2, 384, 4, 4), (2, 768, 2, 2)]
    assert encoder.pool(images_BCHW).shape == (2, 768)

    model = SimMIM(encoder, mask_unit=32, mask_ratio=0.6, target="raw")
    mask = model.draw_mask(torch.tensor([1, 2]))
    assert mask.shape == (2, 2, 2)
    loss, prediction_BCHW = model(images_BCHW, mask)
    loss.backward()
    assert prediction_BCHW.shape == images_BCHW.shape

    folder = swinmim.save_encoder(encoder, tmp_path / "folder", manifest={"recipe": {"note": "random"}})
    larger = swinmim.load_encoder(folder, resolution=128)
    assert larger.pretrained_windows == encoder.pretrained_windows
    assert [stage.window for stage in larger.stages] == [(8, 8), (8, 8), (8, 8), (4, 4)]


@pytest.mark.slow
def test_the_api_brings_neither_hydra_nor_lightning():
    use = "swinmim.create_encoder, swinmim.load_encoder, swinmim.save_encoder"  # their first use imports
    code = f"import sys, swinmim; {use}; import pretrain.simmim; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "swinmim.checkpoint.encoder", "swinmim.models.swinv2"} <= set(loaded)
    assert {"lightning", "wandb", "webdataset", "deepspeed"}.isdisjoint(loaded)
    assert [name for name in loaded if name.startswith("hydra")] == []
