"""Heads of any task beside the encoder: stored, read, and what timm makes of them."""

import json
from pathlib import Path

import pytest
import timm
import torch
from torch import nn

import swinmim
from swinmim.checkpoint.encoder import load_manifest
from swinmim.checkpoint.task_model import load_head, read_head, save_task_model
from swinmim.errors import CheckpointError
from swinmim.export.timm_folder import export_timm

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    encoder = swinmim.create_encoder("swinv2_demo", resolution=32, embed_dim=32, depths=(2, 2), head_dim=16)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return encoder.eval()


def weights(encoder, head):
    named = {"encoder": encoder, "head": head, "decoder": nn.Linear(2, 2)}
    return {f"{part}.{name}": tensor for part, module in named.items() for name, tensor in module.state_dict().items()}


def deep_head():
    return nn.ModuleDict({"up": nn.Conv2d(64, 8, 1), "out": nn.Sequential(nn.GELU(), nn.Conv2d(8, 3, 1, bias=False))})


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 5), deep_head], ids=["linear", "any"])
def test_a_head_comes_back_as_it_was(tmp_path, encoder, make):
    head, again = make(), make()
    folder = save_task_model(encoder, tmp_path / "encoder", weights(encoder, head), {"task": {"kind": "x"}})
    load_head(folder, again)
    assert read_head(folder).keys() == head.state_dict().keys()
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(swinmim.load_encoder(folder)(images), encoder(images))
    assert load_manifest(folder).task == {"kind": "x"}


def test_timm_builds_a_linear_head(tmp_path, encoder):
    head = nn.Linear(64, 7)
    folder = save_task_model(encoder, tmp_path / "encoder", weights(encoder, head), {"mean": (0.1, 0.2, 0.3)})
    twin = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(head(encoder(images)), twin(images), rtol=0, atol=1e-5)
    assert tuple(twin.pretrained_cfg["mean"]) == (0.1, 0.2, 0.3)
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)(images).shape == (2, 3)
    assert read_head(swinmim.save_encoder(encoder, folder)) == {}


@pytest.mark.parametrize("num_classes", [None, 1, 7])
def test_timm_builds_the_encoder_below_another_head(tmp_path, encoder, num_classes):
    folder = save_task_model(encoder, tmp_path / "encoder", weights(encoder, deep_head()))
    wanted = {} if num_classes is None else {"num_classes": num_classes}
    twin = timm.create_model(f"local-dir:{folder}", pretrained=True, **wanted).eval()
    images = torch.randn(2, 3, 32, 32)
    assert twin.num_classes == (num_classes or 0)
    torch.testing.assert_close(encoder.forward_features(images), twin.forward_features(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: nn.Linear(64, 2), deep_head], ids=["linear", "any"])
def test_export_takes_the_head_and_the_history(tmp_path, encoder, make):
    head = make()
    folder = save_task_model(encoder, tmp_path / "encoder", weights(encoder, head), {"metrics": {"top1": 0.9}})
    out = export_timm(folder, tmp_path / "out")
    load_head(out, make())
    assert load_manifest(out).metrics == {"top1": 0.9}
    if isinstance(head, nn.Linear):
        twin = timm.create_model(f"local-dir:{out}", pretrained=True)
        assert torch.equal(twin.head.fc.weight, head.weight)


def test_a_folder_of_the_first_release(tmp_path):
    """Written by save_encoder(encoder, folder, manifest, head=nn.Linear(16, 3)) of version 0.1.0, before any task."""
    folder = GOLDEN / "classify_folder"
    said = json.loads((GOLDEN / "classify_folder.json").read_text())
    encoder, head = swinmim.load_encoder(folder).eval(), nn.Linear(16, 3)
    load_head(folder, head)
    images = torch.linspace(-2, 2, 3 * 32 * 32).reshape(1, 3, 32, 32)
    torch.testing.assert_close(head(encoder(images)), torch.tensor([said["logits"]]), rtol=1e-5, atol=1e-5)
    manifest = load_manifest(folder)
    assert manifest.task == {"kind": "classify", "classes": ["a", "b", "c"]}
    assert manifest.metrics == {"val/top1": 0.5}
    # what is written today from the same weights is the same, but for the date and what timm and transformers are told
    both = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    both |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    again = save_task_model(encoder, tmp_path / "again", both, manifest.history())
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    then, now = (json.loads((each / "config.json").read_text()) for each in (folder, again))
    del then["model_args"]["num_classes"]
    then["pretrained_cfg"]["crop_mode"] = "center"
    assert now == then | {"label_names": ["a", "b", "c"]}
    then, now = (json.loads((each / "manifest.json").read_text()) for each in (folder, again))
    assert now.keys() - then.keys() == {"evaluation", "parents"}
    changing = ("created", "versions", "evaluation", "parents")
    assert {k: v for k, v in then.items() if k not in changing} == {k: v for k, v in now.items() if k not in changing}


def test_wrong_heads_are_refused(tmp_path, encoder):
    with pytest.raises(CheckpointError, match="takes 3 features, the encoder gives 64"):
        save_task_model(encoder, tmp_path / "encoder", weights(encoder, nn.Linear(3, 2)))
    assert not list(tmp_path.iterdir())
    folder = save_task_model(encoder, tmp_path / "encoder", weights(encoder, nn.Linear(64, 2)))
    with pytest.raises(CheckpointError, match=r"(?s)is another one.*loaded 1/2.*weight: \(2, 64\) found, \(2, 63\)"):
        load_head(folder, nn.Linear(63, 2))
    bare = swinmim.save_encoder(encoder, tmp_path / "bare")
    with pytest.raises(CheckpointError, match=r"holds an encoder without a head\. Fine-tune it first"):
        load_head(bare, nn.Linear(64, 2))


def test_the_head_of_published_weights(tmp_path, encoder):
    """As `load_encoder` takes them: a folder of timm, without our manifest."""
    head, again = nn.Linear(64, 5), nn.Linear(64, 5)
    save_task_model(encoder, tmp_path / "timm", weights(encoder, head))
    swinmim.save_encoder(encoder, tmp_path / "bare")
    for name in ("timm", "bare"):
        (tmp_path / name / "manifest.json").unlink()
    load_head(tmp_path / "timm", again)
    assert torch.equal(again.weight, head.weight)
    with pytest.raises(CheckpointError, match=r"bare holds an encoder without a head\. Fine-tune it first"):
        load_head(tmp_path / "bare", again)
