"""Published weights read where they stand: what is refused, what is reported, what stays as it was."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.swin_transformer_v2 import SwinTransformerV2

import swinmim
from swinmim.checkpoint.convert import convert
from swinmim.checkpoint.encoder import beside_encoder, load_manifest, open_encoder
from swinmim.checkpoint.foreign import find_architecture, read_foreign
from swinmim.checkpoint.task_model import read_head
from swinmim.errors import CheckpointError
from swinmim.models.architecture import Architecture, get_architecture
from swinmim.models.swinv2 import SwinV2

SMALL = {"embed_dim": 32, "depths": (2, 1, 1, 1), "num_heads": (2, 4, 8, 16)}


@pytest.fixture
def timm_folder(tmp_path):
    """A timm model trained at 128 px with a window of 4, a thirty-second of the side; ours take a sixteenth."""
    torch.manual_seed(0)
    model = SwinTransformerV2(img_size=128, window_size=4, num_classes=3, pretrained_window_sizes=(4,) * 4, **SMALL)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.1, 0.3)
    (tmp_path / "timm").mkdir()
    save_file(model.state_dict(), tmp_path / "timm" / "model.safetensors")
    config = {
        "architecture": "swinv2_tiny_window8_256",
        "model_args": {"img_size": 128, "window_size": 4, "pretrained_window_sizes": [4] * 4, **SMALL},
        "num_classes": 3,
        "label_names": ["a", "b", "c"],
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.3, 0.2, 0.1], "crop_pct": 0.9, "crop_mode": "squash"},
    }
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    return tmp_path / "timm"


def describe_encoder(path, **options) -> SwinV2:
    with torch.device("meta"):
        return swinmim.load_encoder(path, **options)


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_folder_of_timm_is_an_encoder_folder(timm_folder, tmp_path, caplog):
    with caplog.at_level("INFO"):
        encoder = swinmim.load_encoder(timm_folder).eval()
    assert "classifier: kept, 3 classes" in caplog.text
    assert "resolution 128x128 px, windows 4x4, 4x4, 4x4, 4x4" in caplog.text
    twin = timm.create_model(f"local-dir:{timm_folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 128, 128)
    torch.testing.assert_close(encoder(images), twin.forward_head(twin.forward_features(images), pre_logits=True))
    manifest = load_manifest(timm_folder)
    assert (manifest.mean, manifest.std) == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1))
    assert (manifest.evaluation.crop_pct, manifest.evaluation.crop_mode) == (0.9, "squash")
    assert manifest.task == {"kind": "classify", "classes": ["a", "b", "c"]}
    assert torch.equal(read_head(timm_folder)["weight"], twin.head.fc.weight)
    convert(timm_folder, tmp_path / "out")
    for field in ("architecture", "windows", "mean", "evaluation", "task", "recipe", "parent"):
        assert getattr(load_manifest(tmp_path / "out"), field) == getattr(manifest, field), field


@pytest.mark.parametrize("converted", [False, True])
@pytest.mark.parametrize(
    ("options", "window"),
    [
        ({}, 4),
        ({"resolution": 128}, 4),
        ({"resolution": (128, 128)}, 4),
        ({"resolution": 256}, 8),
        ({"resolution": 384}, 12),
        ({"resolution": 256, "window": 16}, 16),
        ({"resolution": 128, "window": 8}, 8),
    ],
)
def test_windows_stay_the_part_of_the_side_that_they_were(timm_folder, tmp_path, options, window, converted):
    if converted:
        convert(timm_folder, tmp_path / "out")
    source = tmp_path / "out" if converted else timm_folder
    assert describe_encoder(source, **options).stages[0].window == (window, window)


@pytest.mark.parametrize(
    ("given", "options", "window"),
    [
        ({"resolution": 64, "window": 2}, {"resolution": 128}, (4, 4)),
        ({"resolution": 64, "window": 2}, {"resolution": (64, 128)}, (2, 4)),
        ({"resolution": 64}, {"resolution": 128}, (8, 8)),
        ({"resolution": (64, 128)}, {"resolution": 128}, (8, 8)),
        # of two ratios, or none, the architecture's
        ({"resolution": (64, 128), "window": 4}, {"resolution": 128}, (8, 8)),
        ({"resolution": 60, "window": 4, "pad": True}, {"resolution": 128}, (8, 8)),
    ],
)
def test_windows_of_folders_grow_in_proportion(tmp_path, given, options, window):
    encoder = swinmim.create_encoder("swinv2_t", embed_dim=32, depths=(1, 1), head_dim=16, **given)
    folder = swinmim.save_encoder(encoder, tmp_path / "encoder")
    assert describe_encoder(folder, **options).stages[0].window == window


def named(name: str, **changes) -> dict[str, torch.Tensor]:
    """The state dict of a whole, narrow network of that many blocks."""
    architecture = get_architecture(name, **changes)
    return SwinV2(architecture, resolution=64, window=2).state_dict()


@pytest.mark.slow
def test_h_without_its_norms_says_so(tmp_path):
    with torch.device("meta"):
        state = named("swinv2_h", extra_norm_every=0)
    weights = {n: torch.zeros(1, dtype=t.dtype).expand(t.shape) for n, t in state.items()}
    torch.save(weights, tmp_path / "h.pth")
    found = read_foreign(tmp_path / "h.pth", resolution=192, window=12)
    assert found.encoder.architecture.name == "swinv2_custom"
    assert "swinv2_custom: embed_dim 352, depths (2, 2, 18, 2)" in str(found.report)
    assert "; swinv2_h without its 3 norms on the main branch" in str(found.report)


@pytest.mark.slow
def test_a_stage_with_fewer_blocks_is_named_or_refused(tmp_path):
    torch.save(named("swinv2_t", depths=(2, 2, 5, 2)), tmp_path / "t.pth")
    report = convert(tmp_path / "t.pth", tmp_path / "out", resolution=64, window=2)
    assert "swinv2_custom: embed_dim 96, depths (2, 2, 5, 2)" in str(report)
    assert "; swinv2_t has depths (2, 2, 6, 2)" in str(report)
    assert "; swinv2_s has depths (2, 2, 18, 2)" in str(report)
    (tmp_path / "hub").mkdir()
    save_file(named("swinv2_t", depths=(2, 2, 5, 2)), tmp_path / "hub" / "model.safetensors")
    for config in (
        {"architecture": "swinv2_tiny_window8_256.ms_in1k"},
        {"architecture": "x", "model_args": {"img_size": 64, "window_size": 2, "depths": [2, 2, 6, 2]}},
        {"model_type": "swinv2", "image_size": 64, "window_size": 2, "depths": [2, 2, 6, 2]},
    ):
        (tmp_path / "hub" / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match=r"has \(2, 2, 5, 2\) blocks .* by its config it has \(2, 2, 6, 2\)"):
            convert(tmp_path / "hub", tmp_path / "none")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(timm_folder, tmp_path, value):
    state = SwinTransformerV2(img_size=128, window_size=4, num_classes=3, **SMALL).state_dict()
    state["norm.bias"][3] = value
    save_file(state, timm_folder / "model.safetensors")
    for read in (swinmim.load_encoder, lambda path: convert(path, tmp_path / "none")):
        with pytest.raises(CheckpointError, match=r"1 of \d+ tensors are not finite \(norm\.bias\)"):
            read(timm_folder)
    assert not (tmp_path / "none").exists()


def test_what_is_dropped_is_told(timm_folder):
    file = timm_folder / "model.safetensors"
    state = SwinTransformerV2(img_size=128, window_size=4, num_classes=3, **SMALL).state_dict()
    del state["head.fc.bias"]
    save_file(state | {"mask_token": torch.zeros(7), "decoder.0.weight": torch.zeros(1)}, file)
    found = read_foreign(timm_folder)
    line = next(line for line in str(found.report).splitlines() if "dropped" in line)
    assert all(name in line for name in ("head.fc.weight", "mask_token", "decoder.0.weight"))
    assert line.endswith("no whole classifier, or mask token and decoder, of this encoder")
    assert beside_encoder(open_encoder(timm_folder).read()) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": 3}, r"config\.json describes no SwinV2: architecture: .*string; got 3"),
        ({"model_args": [1]}, "describes no SwinV2: model_args"),
        ({"model_args": {"img_size": "x", "window_size": 4}}, "describes no SwinV2: model_args.img_size"),
        (
            {"model_args": {"img_size": 128, "window_size": 2**40, **SMALL}},
            r"model_args\.window_size.*equal to 512; got 1099",
        ),
        (
            {"model_args": {"img_size": 2**40, "window_size": 4, **SMALL}},
            r"model_args\.img_size.*less than or equal to 16384",
        ),
        ({"model_args": {"img_size": 128, "window_size": 0, **SMALL}}, r"model_args\.window_size.*greater than 0"),
        ({"model_args": {"img_size": 100, "window_size": 4, **SMALL}}, "cannot have been trained as it says"),
        (
            {"model_args": {"img_size": 128, "window_size": 4, "pretrained_window_sizes": [4], **SMALL}},
            "says: pretrained",
        ),
        ({"pretrained_cfg": {"crop_mode": "fold"}}, "pretrained_cfg.crop_mode: Input should be 'center' or 'squash'"),
        ({"pretrained_cfg": {"mean": [0.5]}}, "mean has one value for each of the 3 channels"),
        ({"pretrained_cfg": {"std": [0.5, 0, 0.5]}}, r"std\.1: .*greater than or equal to 0\.000001"),
        ({"model_type": "swin"}, "describes no SwinV2: model_type: Input should be 'swinv2'; got 'swin'"),
    ],
)
def test_a_config_that_cannot_be_true(timm_folder, changes, message):
    edit_config(timm_folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        swinmim.load_encoder(timm_folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"architecture": NaN}', "[" * 100_000])
def test_a_config_that_is_none(timm_folder, text):
    (timm_folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read: (is no JSON of|Input should be an obj)"):
        swinmim.load_encoder(timm_folder)


GARBAGE = [
    b"", b"\0", b"hello", b"PK\x03\x04", b"PK\x03\x04" + b"\0" * 500, b"\x80\x02", b"\x80\x02.", b"\x80\x05K\x01.",
    b"\x80\x02}q\0.", b"[" * 200, b"(" * 200 + b".", b"\xff" * 1000, bytes(range(256)), b"\x89PNG\r\n\x1a\n", b"{}",
    b"\x80\x02cbuiltins\nprint\n.", b"\x80\x02]q\x00(K\x01K\x02e.", b"\x80\x02h\x05.", b"\x80\x02X\xff\xff\xff\x7f",
]  # fmt: skip


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".safetensors"])
@pytest.mark.parametrize("content", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_answered(tmp_path, content, suffix):
    file = tmp_path / f"weights{suffix}"
    file.write_bytes(content)
    for read in (swinmim.load_encoder, lambda path: convert(path, tmp_path / "out")):
        with pytest.raises(CheckpointError, match=r"weights\.\w+ (cannot be read|holds no named tensors|holds Python)"):
            read(file)


def test_every_cut_of_a_checkpoint_is_answered(tmp_path):
    torch.save({"model": {"a": torch.zeros(3)}}, tmp_path / "whole.pth", _use_new_zipfile_serialization=False)
    whole = (tmp_path / "whole.pth").read_bytes()
    file = tmp_path / "cut.pth"
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            read_foreign(file)


def test_a_file_that_does_not_say_its_size_names_the_way(tmp_path):
    torch.save(named("swinv2_t", embed_dim=32, depths=(1, 1, 1, 1)), tmp_path / "t.pth")
    way = rf"does not say its resolution.*python scripts/convert_weights\.py {tmp_path / 't.pth'} FOLDER --resolution"
    with pytest.raises(CheckpointError, match=way):
        swinmim.load_encoder(tmp_path / "t.pth")


def test_other_files_are_told_what_published_weights_are_called(tmp_path):
    (tmp_path / "state.ckpt").write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"is a file.*Published weights end in \.safetensors, \.pth, \.pt, \.bin"):
        swinmim.load_encoder(tmp_path / "state.ckpt")


def test_a_gap_among_the_blocks_is_named(tmp_path):
    state = named("swinv2_t", embed_dim=32, depths=(1, 1, 6, 1))
    gap = {name: tensor for name, tensor in state.items() if not name.startswith("layers.2.blocks.3.")}
    far = state | {"layers.2.blocks.9999.norm1.weight": torch.zeros(128)}
    for found, message in ((gap, "lack block 3 of stage 2, which has 6"), (far, "lack block 6 of stage 2")):
        torch.save(found, tmp_path / "gap.pth")
        with pytest.raises(CheckpointError, match=message):
            read_foreign(tmp_path / "gap.pth", resolution=64, window=2)


@pytest.mark.parametrize("size", [0, -1, 2**40])
def test_impossible_sizes_are_refused(tmp_path, size):
    torch.save(named("swinv2_t", embed_dim=32, depths=(1, 1)), tmp_path / "t.pth")
    with pytest.raises(CheckpointError, match=f"resolution is 1 to 16384; got {size}"):
        read_foreign(tmp_path / "t.pth", resolution=size, window=2)
    with pytest.raises(CheckpointError, match=f"window is 1 to 512; got {size}"):
        read_foreign(tmp_path / "t.pth", resolution=64, window=size)


def test_shapes_of_no_swinv2():
    state = {
        "layers.0.blocks.0.attn.logit_scale": torch.zeros(4),
        "layers.0.blocks.0.mlp.fc1.weight": torch.zeros(4, 4),
    }
    for patch in (torch.zeros(4), torch.zeros(2, 3, 4, 4)):
        with pytest.raises(CheckpointError, match="shapes of no SwinV2"):
            find_architecture(state | {"patch_embed.proj.weight": patch})
    assert isinstance(find_architecture(state | {"patch_embed.proj.weight": torch.zeros(32, 3, 4, 4)}), Architecture)
