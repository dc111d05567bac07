import dataclasses
import json
import os
import re

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import swinmim
from swinmim.checkpoint.encoder import find_encoder_folder, load_manifest
from swinmim.errors import CheckpointError
from swinmim.export.timm_folder import export_timm
from swinmim.models.swinv2 import SwinV2

TINY = {"embed_dim": 32, "depths": (2, 2), "head_dim": 16}
FOUR_STAGES = {"embed_dim": 32, "depths": (2, 1, 1, 1), "head_dim": 16, "resolution": 64}


def random_encoder(name: str = "swinv2_demo", **options) -> SwinV2:
    torch.manual_seed(0)
    encoder = swinmim.create_encoder(name, **{"resolution": 32, **TINY, **options})
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.normal_(0.1, 0.3)
    return encoder.eval()


def equal(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"resolution": (32, 64), "in_chans": 1},
        {"window": 2, "pretrained_windows": (4, 3), "position_bias": "log_renormalised"},
        {"position_bias": "linear"},
        {"extra_norm_every": 2},
        {"resolution": (33, 50), "window": 3, "pad": True},
    ],
)
def test_round_trip(tmp_path, options):
    encoder = random_encoder(**options)
    folder = swinmim.save_encoder(encoder, tmp_path / "encoder")
    again = swinmim.load_encoder(folder, drop_path=0.1, recompute="full").eval()
    assert equal(encoder, again)
    for field in ("architecture", "resolution", "stages", "pretrained_windows", "position_bias"):
        assert getattr(again, field) == getattr(encoder, field)
    images = torch.randn(2, encoder.in_chans, *encoder.resolution)
    assert torch.equal(again(images), encoder(images))
    assert [p.name for p in tmp_path.iterdir()] == ["encoder"]  # no draft is left


def test_manifest(tmp_path):
    given = {
        "mean": (0.1, 0.2, 0.3),
        "std": (1, 1, 1),
        "recipe": {"lr": 1e-3, "mask_ratio": 0.6},
        "data": {"fingerprint": "abc"},
        "metrics": {"loss": 0.5},
        "parent": "runs/x/encoder",
        "task": {"kind": "classify", "classes": ["a", "b"]},
    }
    encoder = random_encoder()
    encoder.resize(64)
    manifest = load_manifest(swinmim.save_encoder(encoder, tmp_path / "encoder", given))
    assert {key: getattr(manifest, key) for key in given} == given
    assert manifest.resolution == (64, 64)
    assert manifest.windows == ((8, 8), (8, 8))
    assert manifest.pretrained_windows == ((4, 4), (4, 4))
    assert manifest.architecture.depths == (2, 2)
    assert manifest.versions.keys() == {"swinmim", "torch", "timm"}
    assert manifest.created.startswith("20")


def test_loading_at_a_higher_resolution_keeps_the_pretrained_windows(tmp_path):
    encoder = random_encoder()
    folder = swinmim.save_encoder(encoder, tmp_path / "encoder")
    grown = swinmim.load_encoder(folder, resolution=64).eval()
    encoder.resize(64)
    images = torch.randn(1, 3, 64, 64)
    assert grown.pretrained_windows == ((4, 4), (4, 4))
    assert torch.equal(grown(images), encoder(images))
    with pytest.raises(ValueError, match="Nearest legal resolutions: 32 and 40"):
        swinmim.load_encoder(folder, resolution=33)


def test_other_channels(tmp_path):
    encoder = random_encoder()
    folder = swinmim.save_encoder(encoder, tmp_path / "encoder")
    grey = torch.randn(1, 1, 32, 32)
    one = swinmim.load_encoder(folder, in_chans=1).eval()
    torch.testing.assert_close(one(grey), encoder(grey.expand(1, 3, 32, 32)), rtol=1e-4, atol=1e-4)
    assert swinmim.load_encoder(folder, in_chans=6)(torch.randn(1, 6, 32, 32)).shape == (1, 64)
    with pytest.raises(CheckpointError, match="takes 3 channels; that can become 1 or more than 3, not 2"):
        swinmim.load_encoder(folder, in_chans=2)


@pytest.mark.parametrize(
    "options",
    [{}, FOUR_STAGES, {"resolution": (32, 64)}, {"position_bias": "log_renormalised"}, {"in_chans": 1}],
    ids=["two-stages", "four-stages", "non-square", "renormalised", "grey"],
)
def test_timm_loads_the_folder(tmp_path, options):
    encoder = random_encoder("swinv2_t" if "depths" in options else "swinv2_demo", **options)
    encoder.resize(tuple(2 * side for side in encoder.resolution))  # so that the pretrained windows matter
    folder = swinmim.save_encoder(encoder, tmp_path / "encoder")
    twin = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert equal(encoder, twin)
    images = torch.randn(2, encoder.in_chans, *encoder.resolution)
    torch.testing.assert_close(encoder.forward_features(images), twin.forward_features(images), rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder.pool(images), twin(images), rtol=0, atol=1e-5)
    backbone = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    assert backbone.feature_info.channels() == list(encoder.architecture.stage_dims)
    for ours, theirs in zip(encoder.features(images), backbone(images), strict=True):
        # timm's wrapper gives (B, H, W, C).
        torch.testing.assert_close(ours.permute(0, 2, 3, 1), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"extra_norm_every": 2}, "1 norms on the main branch"), ({"position_bias": "linear"}, "no linear position bias")],
)
def test_what_timm_lacks_is_not_offered_to_it(tmp_path, options, reason):
    encoder = random_encoder(**options)
    folder = swinmim.save_encoder(encoder, tmp_path / "encoder")
    assert not (folder / "config.json").exists()
    for source in (encoder, folder):
        with pytest.raises(CheckpointError, match=f"Cannot export to timm: .*{reason}"):
            export_timm(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_are_found_from_above(tmp_path):
    folder = swinmim.save_encoder(random_encoder(), tmp_path / "checkpoints" / "step-10" / "encoder")
    assert find_encoder_folder(folder.parent) == folder
    (tmp_path / "encoder").symlink_to(folder, target_is_directory=True)
    assert find_encoder_folder(tmp_path) == tmp_path / "encoder"
    swinmim.load_encoder(tmp_path)


def test_saving_replaces_an_encoder_folder_and_nothing_else(tmp_path):
    folder = swinmim.save_encoder(random_encoder(extra_norm_every=0), tmp_path / "encoder")
    other = random_encoder(extra_norm_every=2)
    swinmim.save_encoder(other, folder)
    assert equal(swinmim.load_encoder(folder), other)
    assert sorted(p.name for p in folder.iterdir()) == ["manifest.json", "model.safetensors"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(CheckpointError, match=r"photos exists and is not an encoder folder \(it holds a.jpg\)"):
        swinmim.save_encoder(other, tmp_path / "photos")
    # A link is replaced, not written through.
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    swinmim.save_encoder(random_encoder(), tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert equal(swinmim.load_encoder(folder), other)


def test_a_failed_save_leaves_the_old_folder(tmp_path):
    encoder = random_encoder()
    folder = swinmim.save_encoder(encoder, tmp_path / "encoder")
    with pytest.raises(CheckpointError, match="holds only what JSON can"):
        swinmim.save_encoder(encoder, folder, {"metrics": {"loss": float("nan")}})
    assert equal(swinmim.load_encoder(folder), encoder)
    assert [p.name for p in tmp_path.iterdir()] == ["encoder"]


@pytest.fixture
def folder(tmp_path):
    return swinmim.save_encoder(random_encoder(), tmp_path / "encoder")


def test_coverage_report(folder):
    weights = load_file(folder / "model.safetensors")
    total = len(weights)
    del weights["norm.bias"]
    weights["extra"] = torch.zeros(1)
    weights["norm.weight"] = torch.zeros(3)
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as error:
        swinmim.load_encoder(folder)
    message = str(error.value)
    assert f"loaded {total - 2}/{total}" in message
    assert "missing 1: norm.bias" in message
    assert "unexpected 1: extra" in message
    assert "shape mismatch 1: norm.weight: (3,) found, (64,) expected" in message


def test_wrong_folders(tmp_path, folder):
    cases = [
        (tmp_path / "nowhere", "does not exist"),
        (folder / "model.safetensors", rf"is a file.*give the folder \({re.escape(str(folder))}\)"),
    ]
    (tmp_path / "empty").mkdir()
    cases.append((tmp_path / "empty", r"is not an encoder folder \(it is empty\)"))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    for name in ("config.json", "model.safetensors"):
        (foreign / name).write_bytes((folder / name).read_bytes())
    assert equal(swinmim.load_encoder(foreign), swinmim.load_encoder(folder))  # by what it tells timm
    with pytest.raises(CheckpointError, match=r"a model of timm or Hugging Face\. Convert it first: python scripts"):
        find_encoder_folder(foreign)
    for path, message in cases:
        with pytest.raises(CheckpointError, match=message):
            swinmim.load_encoder(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99; this swinmim reads version 1"),
        ({"colour": "blue"}, "colour is unknown"),
        ({"resolution": None}, "resolution is missing"),
        ({"architecture": None}, "names no architecture"),
        (
            {"architecture": {"name": "x"}},
            "is damaged: architecture.embed_dim is missing; architecture.depths is missing",
        ),
        ({"architecture": {"name": "x", "embed_dim": 32.5, "depths": [2]}}, r"embed_dim: .*; got 32\.5"),
        ({"architecture": {"name": "x", "embed_dim": 30, "depths": [2]}}, "embed_dim must be a multiple of head_dim"),
        ({"position_bias": "sine"}, "position_bias: Input should be 'log', 'log_renormalised' or 'linear'; got 'sine'"),
        ({"resolution": [32]}, "is damaged: resolution.1 is missing"),
        ({"windows": []}, "is damaged: windows: .*at least 1 item"),
        ({"windows": [[4, "x"]]}, r"is damaged: windows\.0\.1: .*; got 'x'"),
        ({"mean": 0.5}, "is damaged: mean: .*; got 0.5"),
        ({"windows": [[2**40, 2**40]] * 2}, r"windows\.0\.0: .*less than or equal to 512; got 1099511627776"),
        ({"windows": [[256, 256]] * 2}, r"a window has at most 16384 tokens; got \(256, 256\)"),
        ({"windows": [[4, 4]]}, r"windows at \(32, 32\) px are .*; got \(\(4, 4\),\)"),
        ({"windows": [[4, 4], [2, 2]]}, "windows at"),
        ({"pretrained_windows": [[4, 4]]}, "pretrained_windows has one of each of the 2 stages"),
        ({"pretrained_windows": [[0, 4], [4, 4]]}, r"pretrained_windows\.0\.0: .*greater than 0"),
        ({"resolution": [2**40, 32]}, r"resolution\.0: .*less than or equal to 16384"),
        (
            {"architecture": {"name": "x", "embed_dim": 32, "depths": [2, 10**7]}},
            r"at most 8 stages and 500 blocks; got",
        ),
        ({"architecture": {"name": "x", "embed_dim": 32, "depths": [1] * 50}}, r"at most 8 stages and 500 blocks; got"),
        (
            {"architecture": {"name": "x", "embed_dim": 2**40, "depths": [2, 2]}},
            "architecture.embed_dim is at most 16384",
        ),
        (
            {"architecture": {"name": "x", "embed_dim": 32, "depths": [2, 2], "mlp_ratio": 1e300}},
            "mlp_ratio is at most 64",
        ),
        ({"in_chans": 4}, "in_chans is of 4 channels, the architecture of 3"),
        ({"mean": [0.5]}, "mean is of 1 channels, the architecture of 3"),
        ({"mean": [0.5, 0.5, 1e400]}, r"mean\.2: .*finite number|cannot be read"),
        ({"std": [0.5, 0.5, 0]}, r"std\.2: .*greater than or equal to 0\.000001; got 0"),
        ({"std": [0.5, 0.5, -1]}, r"std\.2: .*greater than or equal to 0\.000001; got -1"),
        ({"evaluation": {"crop_pct": 0}}, r"evaluation\.crop_pct: .*greater than 0"),
        ({"evaluation": {"crop_mode": "border"}}, "evaluation.crop_mode: Input should be 'center' or 'squash'"),
    ],
)
def test_damaged_manifests(folder, change, message):
    content = json.loads((folder / "manifest.json").read_text())
    content = {k: v for k, v in (content | change).items() if v is not None or k in ("parent", "task")}
    (folder / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=message):
        swinmim.load_encoder(folder)


def test_damaged_files(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged"):
        swinmim.load_encoder(folder)
    manifest = (folder / "manifest.json").read_text()
    nested = manifest.replace('"data": {}', f'"data": {{"x": {"[" * 100_000}{"]" * 100_000}}}')
    for text in ("{", manifest.replace('"metrics": {}', '"metrics": {"loss": NaN}'), nested):
        assert text != manifest
        (folder / "manifest.json").write_text(text)
        with pytest.raises(CheckpointError, match="cannot be read: is no JSON of finite numbers"):
            swinmim.load_encoder(folder)


def test_a_manifest_without_end_is_not_read(folder):
    os.truncate(folder / "manifest.json", 10**12)
    with pytest.raises(CheckpointError, match=r"has 1,000,000,000,000 bytes, more than it can have \(64,000,000\)"):
        swinmim.load_encoder(folder)


def test_a_pipe_in_place_of_a_manifest_is_not_waited_for(folder):
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")
    with pytest.raises(CheckpointError, match=r"encoder/manifest\.json cannot be read: is no regular file"):
        swinmim.load_encoder(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"manifest": {"metric": {}}}, "got 'metric'. Did you mean 'metrics'"),
        ({"manifest": {"resolution": 3}}, "got 'resolution'"),
        ({"manifest": {"mean": (0.5,)}}, "one value for each of the 3 channels"),
    ],
)
def test_wrong_arguments(tmp_path, arguments, message):
    with pytest.raises(CheckpointError, match=message):
        swinmim.save_encoder(random_encoder(), tmp_path / "encoder", **arguments)
    assert not list(tmp_path.iterdir())


def test_architecture_survives_json(folder):
    manifest = load_manifest(folder)
    assert swinmim.load_encoder(folder).architecture == manifest.architecture
    content = json.loads((folder / "manifest.json").read_text())
    assert content["architecture"] == dataclasses.asdict(manifest.architecture) | {"depths": [2, 2]}
