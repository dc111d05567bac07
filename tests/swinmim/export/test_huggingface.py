"""What transformers makes of exported folders, offline, and what it has no model for."""

import json

import pytest
import torch
from made_folders import made_encoder, made_task_model
from torch import nn
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, AutoModelForMaskedImageModeling

from pretrain.simmim import SimMIM
from swinmim.checkpoint.encoder import open_encoder, save_encoder
from swinmim.checkpoint.io import STATE
from swinmim.errors import CheckpointError
from swinmim.export import parity
from swinmim.export.huggingface import check_huggingface, export_huggingface, likeliest_part

CLASSES = ["hen", "fox", "dog"]


@pytest.fixture
def images():
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_the_encoder(tmp_path, images):
    encoder = made_encoder()
    folder = save_encoder(encoder, tmp_path / "encoder")
    hf = export_huggingface(folder, tmp_path / "hf")
    model, loading = AutoModel.from_pretrained(hf, output_loading_info=True)
    assert not any(loading.values())
    torch.testing.assert_close(model.eval()(images).pooler_output, encoder(images), rtol=0, atol=1e-5)
    assert check_huggingface(open_encoder(folder), hf, "encoder").difference <= 1e-5
    assert (hf / "README.md").read_text().startswith("---\nlibrary_name: transformers\n")
    assert AutoImageProcessor.from_pretrained(hf).crop_size["height"] == 64


@torch.no_grad()
def test_a_classifier_with_names(tmp_path, images):
    encoder, head = made_encoder(), nn.Linear(32, 3)
    folder = made_task_model(tmp_path / "task", head, encoder, task={"kind": "multilabel", "classes": CLASSES})
    hf = export_huggingface(folder, tmp_path / "hf")
    model = AutoModelForImageClassification.from_pretrained(hf).eval()
    torch.testing.assert_close(model(images).logits, head(encoder(images)), rtol=0, atol=1e-5)
    assert model.config.id2label == dict(enumerate(CLASSES))
    assert model.config.problem_type == "multi_label_classification"
    found = check_huggingface(open_encoder(folder), hf, "task")
    assert str(found).startswith("logits: ")
    bare = export_huggingface(folder, tmp_path / "bare", "encoder")
    assert "classifier.weight" not in AutoModel.from_pretrained(bare).state_dict()


def simmim_run(folder, **options):
    """A run's directory as far as its last checkpoint goes, and the model in it."""
    model = SimMIM(made_encoder(), mask_unit=16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("encoder."):
                parameter.normal_(0, 0.1)
    step = folder / "checkpoints" / "step_00000002"
    save_encoder(model.encoder, step / "encoder")
    (folder / "encoder").symlink_to("checkpoints/step_00000002/encoder")
    torch.save({"state_dict": {f"network.{k}": v for k, v in model.state_dict().items()}} | options, step / STATE)
    return model


@torch.no_grad()
def test_the_simmim_model_of_a_run(tmp_path, images):
    """Reconstruction and loss, with the mask that hides the same patches."""
    model = simmim_run(tmp_path / "run")
    hf = export_huggingface(tmp_path / "run", tmp_path / "hf", "simmim")
    twin, loading = AutoModelForMaskedImageModeling.from_pretrained(hf, output_loading_info=True)
    assert not any(loading.values())
    mask_Bhw = model.draw_mask(torch.tensor([3, 4]))
    loss, prediction = model(images, mask_Bhw)
    patches = mask_Bhw.repeat_interleave(4, 1).repeat_interleave(4, 2).flatten(1)
    theirs = twin.eval()(images, bool_masked_pos=patches)
    torch.testing.assert_close(theirs.reconstruction, prediction, rtol=0, atol=1e-5)
    torch.testing.assert_close(theirs.loss, loss, rtol=1e-5, atol=0)
    stored = open_encoder(tmp_path / "run")
    assert check_huggingface(stored, hf, "simmim").difference <= 1e-5
    assert likeliest_part(stored) == "encoder"
    backbone = AutoModel.from_pretrained(hf).eval()
    torch.testing.assert_close(backbone(images).pooler_output, model.encoder(images), rtol=0, atol=1e-5)


def test_a_simmim_model_without_its_decoder(tmp_path):
    simmim_run(tmp_path / "run")
    lone = save_encoder(made_encoder(), tmp_path / "lone")
    with pytest.raises(CheckpointError, match=r"has no mask token and decoder of SimMIM\. Give the pretraining run"):
        export_huggingface(lone, tmp_path / "hf", "simmim")
    state = tmp_path / "run" / "checkpoints" / "step_00000002" / STATE
    for content in (b"", b"\xff" * 100):
        state.write_bytes(content)
        with pytest.raises(CheckpointError, match="is no trainer state of this program, or damaged"):
            export_huggingface(tmp_path / "run", tmp_path / "hf", "simmim")
    torch.save({"state_dict": {"network.mask_token": torch.zeros(7)}}, state)
    with pytest.raises(CheckpointError, match="has no mask token and decoder"):
        export_huggingface(tmp_path / "run", tmp_path / "hf", "simmim")
    assert not (tmp_path / "hf").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"extra_norm_every": 1}, "has 3 norms on the main branch .* that Hugging Face's Swinv2Model lacks"),
        ({"position_bias": "linear"}, "Hugging Face's Swinv2Model has no linear position bias"),
        ({"position_bias": "log_renormalised"}, "it always measures offsets in the pretrained window"),
        ({"resolution": (64, 128)}, "it takes square images and windows only"),
    ],
)
def test_what_it_cannot_express(tmp_path, options, reason):
    encoder = made_encoder(**options)
    for part in ("encoder", "simmim", None):
        with pytest.raises(CheckpointError, match=f"Cannot export to Hugging Face: .*{reason}"):
            export_huggingface(save_encoder(encoder, tmp_path / "encoder"), tmp_path / "hf", part)
    assert not (tmp_path / "hf").exists()


def test_heads_that_are_none_of_its(tmp_path):
    lone = save_encoder(made_encoder(), tmp_path / "lone")
    with pytest.raises(CheckpointError, match=r"holds an encoder without a head\. Fine-tune it first"):
        export_huggingface(lone, tmp_path / "hf", "task")
    for kind, head in (("segment", nn.Conv2d(32, 3, 1)), ("regress", nn.Linear(32, 3))):
        other = made_task_model(tmp_path / kind, head, task={"kind": kind, "classes": CLASSES})
        with pytest.raises(CheckpointError, match=f"no model for the head of task={kind} .*Take format=onnx"):
            export_huggingface(other, tmp_path / "hf", "task")
        export_huggingface(other, tmp_path / f"{kind}_hf")
        assert json.loads((tmp_path / f"{kind}_hf" / "config.json").read_text())["architectures"] == ["Swinv2Model"]


def test_another_network_is_told(tmp_path):
    """The check sees a weight that differs, and rounding that float64 explains is none."""
    folder = save_encoder(made_encoder(), tmp_path / "encoder")
    hf = export_huggingface(folder, tmp_path / "hf")
    other = made_encoder()
    other.layers[1].blocks[1].attn.logit_scale.data += 1.0
    with pytest.raises(CheckpointError, match="The export is another network than its source: last map"):
        check_huggingface(open_encoder(save_encoder(other, tmp_path / "other")), hf, "encoder")
    ours, theirs = nn.Linear(8, 8), nn.Linear(8, 8)
    theirs.load_state_dict(ours.state_dict())
    calls = (ours, lambda x: [ours(x)]), (theirs, lambda x: [theirs(x) + (2e-5 if x.dtype == torch.float32 else 0)])
    told = str(parity.judge_modules("logits", 1e-5, *calls, torch.ones(1, 8)))
    assert told.startswith("logits, rounding of float32: ")
    assert ours.weight.dtype == torch.float32
