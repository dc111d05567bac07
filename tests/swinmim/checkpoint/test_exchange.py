"""What timm and transformers make of our folders: the same logits from the same JPEG, preprocessing included."""

import io
import os
import stat

import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageFilter
from timm.data import create_transform, resolve_data_config
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification

import swinmim
from data.codecs.decode import decode
from data.loading.views import CenterCrop, center_box, resize
from swinmim.checkpoint.encoder import load_manifest
from swinmim.checkpoint.task_model import load_head, save_task_model
from swinmim.export.huggingface import export_huggingface
from swinmim.export.timm_folder import export_timm
from swinmim.models.swinv2 import SwinV2

CLASSES = ["hen", "fox", "hen house", "Ärger", "dog"]
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


@pytest.fixture(scope="module")
def encoder() -> SwinV2:
    torch.manual_seed(0)
    encoder = swinmim.create_encoder("swinv2_t", resolution=64, embed_dim=32, depths=(2, 1, 1, 1), head_dim=16)
    encoder.resize(128)  # so that the pretrained windows matter
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    return encoder.eval()


@pytest.fixture(scope="module")
def head(encoder) -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(encoder.num_features, len(CLASSES))


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (190, 260, 3), dtype=np.uint8)
    image = Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6))
    stretched = Image.fromarray((np.clip((np.asarray(image, np.float32) - 128) * 8 + 128, 0, 255)).astype(np.uint8))
    stretched.save(file := io.BytesIO(), "jpeg", quality=95)
    return file.getvalue()


VIEWS = {
    "whole": {},
    "cropped": {"crop_pct": 0.875},
    "squashed": {"crop_mode": "squash"},
    "squashed and cropped": {"crop_pct": 0.9, "crop_mode": "squash"},
    "bilinear": {"crop_pct": 0.8, "interpolation": "bilinear"},
}


def our_logits(folder, jpeg: bytes, head: nn.Linear) -> torch.Tensor:
    """By our own decoder, view and normalisation, of the weights in the folder."""
    encoder, manifest = swinmim.load_encoder(folder).eval(), load_manifest(folder)
    image, view = decode(jpeg, channels=3), manifest.evaluation
    if view.interpolation == "bicubic":
        seen, _ = CenterCrop(encoder.resolution, view.crop_pct, view.crop_mode)(image, None, 0)
    else:  # which no view of ours is
        top, left, height, width = center_box(image.shape[0], image.shape[1], encoder.resolution, view.crop_pct)
        seen = resize(image[top : top + height, left : left + width], encoder.resolution, view.interpolation)
    load_head(folder, again := nn.Linear(*head.weight.shape[::-1]))
    normalised = (seen / 255 - torch.tensor(manifest.mean)) / torch.tensor(manifest.std)
    return again(encoder(normalised.permute(2, 0, 1)[None]))


@pytest.fixture(params=VIEWS, ids=str)
def task_model(request, encoder, head, tmp_path):
    named = {"encoder": encoder, "head": head}
    weights = {f"{part}.{name}": t for part, module in named.items() for name, t in module.state_dict().items()}
    task = {"kind": "classify", "classes": CLASSES}
    manifest = {"mean": MEAN, "std": STD, "task": task, "evaluation": VIEWS[request.param]}
    return save_task_model(encoder, tmp_path / "encoder", weights, manifest)


def assert_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Ours cuts before it resizes; half a pixel and the rounding to 8 bits are 0.012 here, another crop 0.05."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)


@torch.no_grad()
def test_timm(task_model, jpeg, head, tmp_path):
    expected = our_logits(task_model, jpeg, head)
    assert expected.std() > 0.2
    for folder in (task_model, export_timm(task_model, tmp_path / "copy")):
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        transform = create_transform(**resolve_data_config({}, model=model))
        image = Image.open(io.BytesIO(jpeg)).convert("RGB")
        assert_alike(model(transform(image)[None]), expected)
        assert model.pretrained_cfg["label_names"] == CLASSES
        assert load_manifest(folder).evaluation == load_manifest(task_model).evaluation


@torch.no_grad()
@pytest.mark.parametrize("export", [False, True], ids=["our folder", "export_huggingface"])
@pytest.mark.slow
def test_transformers(task_model, jpeg, head, tmp_path, export):
    expected = our_logits(task_model, jpeg, head)
    folder = export_huggingface(task_model, tmp_path / "hf") if export else task_model
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    assert_alike(model(**processor(image, return_tensors="pt")).logits, expected)
    assert [model.config.id2label[i] for i in range(5)] == CLASSES
    assert model.config.label2id["fox"] == 1
    backbone, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    ours = swinmim.load_encoder(task_model)(torch.ones(1, 3, 128, 128))
    torch.testing.assert_close(backbone.eval()(torch.ones(1, 3, 128, 128)).pooler_output, ours, rtol=0, atol=1e-4)
    fresh = AutoModelForImageClassification.from_pretrained(folder, num_labels=3, ignore_mismatched_sizes=True)
    assert fresh.eval()(torch.ones(1, 3, 128, 128)).logits.shape == (1, 3)


def deep_head() -> nn.ModuleDict:
    return nn.ModuleDict({"up": nn.Conv2d(256, 8, 1), "out": nn.Conv2d(8, 3, 1)})


@torch.no_grad()
@pytest.mark.parametrize("head", [None, deep_head()], ids=["no head", "another head"])
@pytest.mark.parametrize(
    "options",
    [{}, {"in_chans": 1}, {"resolution": (64, 128)}, {"position_bias": "log_renormalised"}],
    ids=["plain", "grey", "oblong", "renormalised"],
)
def test_an_encoder_without_a_classifier(tmp_path, options, head):
    torch.manual_seed(0)
    shape = {"embed_dim": 32, "depths": (2, 1, 1, 1), "head_dim": 16, "resolution": 64}
    encoder = swinmim.create_encoder("swinv2_t", **(shape | options)).eval()
    for name, parameter in encoder.named_parameters():
        parameter.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.1)
    named = {"encoder": encoder} | ({} if head is None else {"head": head})
    weights = {f"{part}.{name}": t for part, module in named.items() for name, t in module.state_dict().items()}
    folder = save_task_model(encoder, tmp_path / "encoder", weights)
    model, loading = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    images = torch.randn(2, encoder.in_chans, *encoder.resolution)
    torch.testing.assert_close(model.eval()(images).pooler_output, encoder(images), rtol=0, atol=1e-4)
    twin = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.testing.assert_close(twin(images), encoder(images), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="specify the number of classes"):
        AutoModelForImageClassification.from_pretrained(folder)
    fresh = AutoModelForImageClassification.from_pretrained(folder, num_labels=3).eval()
    assert fresh(images).logits.shape == (2, 3)
    assert (folder / "extra.safetensors").exists() == (head is not None)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o027, 0o640)])
def test_who_may_read_a_folder(encoder, tmp_path, umask, mode):
    """Every file alike, as the umask says, whatever the library that wrote it."""
    before = os.umask(umask)
    try:
        head = {f"head.{name}": tensor for name, tensor in deep_head().state_dict().items()}
        ours = swinmim.save_encoder(encoder, tmp_path / "ours", weights=encoder.state_dict() | head)
        folders = ours, export_timm(ours, tmp_path / "timm"), export_huggingface(ours, tmp_path / "hf")
    finally:
        os.umask(before)
    files = [file for folder in folders for file in folder.iterdir()]
    assert len(files) == 4 + 5 + 4
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {mode}
