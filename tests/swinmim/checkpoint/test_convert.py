"""Weights of other implementations to ours and back, judged by the features they compute (random norm gammas)."""

import json
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer_v2 import SwinTransformerV2

from swinmim.checkpoint.convert import convert
from swinmim.checkpoint.encoder import load_encoder, load_manifest, save_encoder
from swinmim.checkpoint.names import to_huggingface, to_ours
from swinmim.checkpoint.task_model import read_head
from swinmim.errors import CheckpointError
from swinmim.export.huggingface import export_huggingface
from swinmim.models.position_bias import relative_coords
from swinmim.models.swinv2 import Architecture, SwinV2

SMALL = Architecture(name="small", embed_dim=32, depths=(2, 2), head_dim=16, window_ratio=16)


@pytest.fixture
def encoder() -> SwinV2:
    torch.manual_seed(0)
    encoder = SwinV2(SMALL, resolution=64, window=4)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, 0.3, 0.3)
    return encoder


def official_names(state: dict[str, torch.Tensor], prefix: str = "", pretrained: int = 4) -> dict[str, torch.Tensor]:
    """As microsoft/Swin-Transformer saves them: merging at the end of a stage, tables among the weights."""
    out = {prefix + name.replace("layers.1.downsample", "layers.0.downsample"): t for name, t in state.items()}
    out[prefix + "layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    for stage in (0, 1):
        coords = relative_coords((4, 4), (pretrained, pretrained))
        out[prefix + f"layers.{stage}.blocks.0.attn.relative_coords_table"] = coords[None]
    out[prefix + "layers.0.blocks.1.attn_mask"] = torch.zeros(16, 16, 16)
    return out


def assert_same(folder: Path, encoder: SwinV2) -> None:
    loaded = load_encoder(folder)
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(loaded.forward_features(images), encoder.forward_features(images))


@pytest.mark.parametrize("old", [False, True])
def test_official(encoder, tmp_path, old):
    state = official_names(encoder.state_dict())
    if old:
        state = {name.replace("cpb_mlp", "rpe_mlp"): tensor for name, tensor in state.items()}
    torch.save({"model": state, "epoch": 3}, tmp_path / "official.pth")
    report = convert(tmp_path / "official.pth", tmp_path / "encoder")
    assert str(report) == (
        f"loaded {len(encoder.state_dict())}/{len(encoder.state_dict())}\n"
        "  official names\n"
        "  architecture swinv2_custom: embed_dim 32, depths (2, 2), head_dim 16, patch_size 4, mlp_ratio 4.0, "
        "in_chans 3\n"
        "  resolution 64x64 px, windows 4x4, 4x4, position bias in units of 4x4, 4x4\n"
        "  dropped 4 tables, which are computed: relative_position_index, relative_coords_table, attn_mask"
    )
    assert_same(tmp_path / "encoder", encoder)
    assert load_manifest(tmp_path / "encoder").pretrained_windows == ((4, 4), (4, 4))


@pytest.mark.parametrize("pretrained", [2, 3, 4, 7])
def test_official_weights_at_a_grown_window_keep_their_unit(encoder, tmp_path, pretrained):
    """Their table of coordinates tells the window of pretraining; the file says it nowhere else."""
    torch.save({"model": official_names(encoder.state_dict(), pretrained=pretrained)}, tmp_path / "official.pth")
    convert(tmp_path / "official.pth", tmp_path / "encoder")
    assert load_encoder(tmp_path / "encoder").pretrained_windows == ((pretrained, pretrained),) * 2
    encoder = SwinV2(SMALL, resolution=64, window=4, pretrained_windows=(pretrained, pretrained))
    encoder.load_state_dict(load_encoder(tmp_path / "encoder").state_dict())
    assert_same(tmp_path / "encoder", encoder)


def test_the_name_of_a_timm_model_says_its_geometry(tmp_path):
    """As on the hub, where config.json gives no arguments; here those that make the model small."""
    name = "swinv2_base_window12to24_192to384"
    small = {"embed_dim": 32, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8), "num_classes": 0}
    twin = timm.create_model(name, pretrained=False, **small).eval()
    for parameter in twin.parameters():
        torch.nn.init.normal_(parameter, 0.2, 0.3)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text(
        json.dumps({"architecture": name, "num_classes": 0, "model_args": small})
    )
    save_file(twin.state_dict(), tmp_path / "hub" / "model.safetensors")
    convert(tmp_path / "hub", tmp_path / "encoder")
    encoder = load_encoder(tmp_path / "encoder")
    assert encoder.resolution == (384, 384)
    assert [stage.window[0] for stage in encoder.stages] == [24, 24, 24, 12]
    assert [window[0] for window in encoder.pretrained_windows] == [12, 12, 12, 6]
    images = torch.randn(1, 3, 384, 384)
    with torch.no_grad():
        theirs = twin.forward_features(images)
        assert (encoder.forward_features(images) - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def test_official_settings_do_not_stand_in_the_way(encoder, tmp_path, monkeypatch):
    """SimMIM's checkpoints hold the settings of the run as yacs objects."""
    yacs, config = ModuleType("yacs"), ModuleType("yacs.config")
    vars(config)["CfgNode"] = type("CfgNode", (dict,), {"__module__": "yacs.config"})
    monkeypatch.setitem(sys.modules, "yacs", yacs)
    monkeypatch.setitem(sys.modules, "yacs.config", config)
    settings = config.CfgNode(DATA=config.CfgNode(IMG_SIZE=64))
    settings.__dict__["__immutable__"] = True
    saved = {"model": official_names(encoder.state_dict()), "config": settings, "epoch": 799}
    torch.save(saved, tmp_path / "official.pth")
    monkeypatch.undo()
    convert(tmp_path / "official.pth", tmp_path / "encoder")
    assert_same(tmp_path / "encoder", encoder)


def test_official_simmim(encoder, tmp_path):
    state = official_names(encoder.state_dict(), "module.encoder.")
    state |= {"module.encoder.mask_token": torch.zeros(1, 1, 32), "module.decoder.0.weight": torch.zeros(192, 64, 1, 1)}
    torch.save({"model": state}, tmp_path / "simmim.pth")
    convert(tmp_path / "simmim.pth", tmp_path / "encoder")
    assert_same(tmp_path / "encoder", encoder)


def test_timm_with_its_head(encoder, tmp_path):
    model = SwinTransformerV2(
        img_size=64, num_classes=5, embed_dim=32, depths=(2, 2), num_heads=(2, 4), window_size=4,
        pretrained_window_sizes=(4, 4),
    )  # fmt: skip
    model.load_state_dict(encoder.state_dict(), strict=False)
    torch.save(model.state_dict(), tmp_path / "timm.pth")
    with pytest.raises(CheckpointError, match="does not say its resolution"):
        convert(tmp_path / "timm.pth", tmp_path / "encoder")
    convert(tmp_path / "timm.pth", tmp_path / "encoder", resolution=64, window=4)
    assert_same(tmp_path / "encoder", encoder)
    assert torch.equal(read_head(tmp_path / "encoder")["weight"], model.head.fc.weight)


@pytest.fixture
def with_head(encoder, tmp_path) -> Path:
    """Official weights with a classifier of 6 classes; row i of the head is filled with i."""
    state = official_names(encoder.state_dict())
    state |= {"head.weight": torch.arange(6.0)[:, None].expand(6, 64).contiguous(), "head.bias": torch.arange(6.0)}
    torch.save({"model": state}, tmp_path / "22k.pth")
    return tmp_path / "22k.pth"


def test_classes_of_the_head_are_picked(encoder, with_head, tmp_path):
    (tmp_path / "rows.txt").write_text("4\n0\n5\n")
    report = convert(with_head, tmp_path / "encoder", head_rows=tmp_path / "rows.txt")
    assert report.complete
    assert str(report).endswith("head: 3 of 6 classes picked")
    head = read_head(tmp_path / "encoder")
    assert head["bias"].tolist() == [4, 0, 5]
    assert torch.equal(head["weight"], torch.tensor([4.0, 0, 5])[:, None].expand(3, 64))
    assert_same(tmp_path / "encoder", encoder)
    convert(with_head, tmp_path / "whole")
    assert len(read_head(tmp_path / "whole")["weight"]) == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0\n1\n6\n", r"line 3: class 6 of a head with 6 classes \(0 to 5\)"),
        ("0\n\n1\n", "line 2: one class number of the source per line; got ''"),
        ("0 1\n", "line 1: one class number"),
        ("-1\n", "line 1: one class number"),
        ("2\n3\n2\n", "line 3: class 2 is in line 1 already"),
        ("\n", "is empty"),
        (None, "cannot be read"),
    ],
)
def test_rows_that_do_not_fit_are_refused(with_head, tmp_path, text, message):
    if text is not None:
        (tmp_path / "rows.txt").write_text(text)
    with pytest.raises(CheckpointError, match=message):
        convert(with_head, tmp_path / "encoder", head_rows=tmp_path / "rows.txt")
    assert not (tmp_path / "encoder").exists()


def test_rows_without_a_head_are_refused(encoder, tmp_path):
    torch.save(official_names(encoder.state_dict()), tmp_path / "official.pth")
    (tmp_path / "rows.txt").write_text("0\n")
    with pytest.raises(CheckpointError, match="has no classifier"):
        convert(tmp_path / "official.pth", tmp_path / "encoder", head_rows=tmp_path / "rows.txt")


def test_hugging_face_and_back(encoder, tmp_path):
    from transformers import Swinv2Model

    save_encoder(encoder, tmp_path / "encoder")
    export_huggingface(tmp_path / "encoder", tmp_path / "hf")
    model = Swinv2Model.from_pretrained(tmp_path / "hf", add_pooling_layer=False)
    images = torch.randn(1, 3, 64, 64)
    theirs, ours = model(images).last_hidden_state, encoder.forward_features(images).flatten(1, 2)
    assert (theirs - ours).abs().max() <= 1e-5 * ours.detach().abs().max()
    convert(tmp_path / "hf", tmp_path / "back")
    assert_same(tmp_path / "back", encoder)


def test_a_folder_of_ours_is_not_converted(encoder, tmp_path):
    """It would lose what it says of itself."""
    folder = save_encoder(encoder, tmp_path / "encoder")
    for source in (folder, folder / "model.safetensors"):
        for destination in (folder, tmp_path / "other"):
            with pytest.raises(CheckpointError, match="is an encoder folder already, or in one"):
                convert(source, destination)
    assert not (tmp_path / "other").exists()


def test_names_there_and_back(encoder):
    state = encoder.state_dict()
    back = to_ours(to_huggingface(state))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"stages.0.blocks.0.attn.meta_mlp.fc1.weight": 0}, "swinv2_cr, another network"),
        ({"layers.0.blocks.0.attn.relative_position_bias_table": 0}, "weights of Swin V1"),
        ({"blocks.0.attn.qkv.weight": 0}, "not weights of a SwinV2"),
    ],
)
def test_other_networks_are_refused(tmp_path, state, message):
    torch.save({name: torch.zeros(1) for name in state}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(tmp_path / "other.pth", tmp_path / "encoder", resolution=64, window=4)
    assert not (tmp_path / "encoder").exists()


def test_incomplete_weights_are_reported(encoder, tmp_path):
    state = official_names(encoder.state_dict())
    del state["norm.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(CheckpointError, match=r"(?s)loaded 67/68.*missing 1: norm.weight|missing 1: norm.weight"):
        convert(tmp_path / "part.pth", tmp_path / "encoder")


class Evil:
    def __reduce__(self):
        return (print, ("ran",))


def test_pickled_objects_are_not_run(tmp_path, capsys):
    torch.save({"model": {"w": torch.zeros(1)}, "config": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match=r"Python objects besides tensors, which could run code: .*print"):
        convert(tmp_path / "evil.pth", tmp_path / "encoder")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.slow
def test_script_ends_with_a_message(tmp_path):
    script = Path(__file__).parents[3] / "scripts" / "convert_weights.py"
    done = subprocess.run(
        [sys.executable, script, tmp_path / "none.pth", tmp_path / "x"], capture_output=True, text=True
    )
    assert done.returncode == 4
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_script_names_the_wrong_line_of_the_rows(with_head, tmp_path, monkeypatch, capsys):
    script = Path(__file__).parents[3] / "scripts" / "convert_weights.py"
    (tmp_path / "rows.txt").write_text("7\n")
    arguments = [script, with_head, tmp_path / "x", "--head-rows", tmp_path / "rows.txt"]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 4
    assert "rows.txt, line 1: class 7 of a head with 6 classes" in capsys.readouterr().err
