"""The settings, the card and the lines of an export, and what it leaves where it fails."""

import pytest
from made_folders import made_encoder, made_task_model
from torch import nn

from swinmim.checkpoint.encoder import load_manifest, save_encoder
from swinmim.errors import CheckpointError, ConfigError
from swinmim.export import command
from swinmim.export.settings import ExportConfig, read_settings


def no_tasks(stored, resolution):
    raise CheckpointError("asked for the task's network")


def test_settings_are_read():
    assert read_settings([]) == ExportConfig(format="timm", part=None, resolution=None)
    assert read_settings(["format=onnx", "resolution=384"]).resolution == 384
    assert read_settings(["format=torch_export", "resolution=[64,128]"]).resolution == (64, 128)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["onnx"], "settings are key=value .*; got 'onnx'"),
        (["--format=onnx", "=3"], "got '=3'"),
        (["format=tflite"], "format: .*'timm', 'hf', 'onnx' or 'torch_export'.*got 'tflite'"),
        (["fromat=hf"], "unknown key 'fromat'. Did you mean 'format'"),
        (["format=hf", "part=decoder"], "part: .*'encoder', 'simmim' or 'task'"),
        (["part=task"], "part has no effect with format=timm"),
        (["format=onnx", "part=simmim"], "part=simmim is for format=hf"),
        (["format=hf", "resolution=384"], "resolution is for format=onnx and torch_export"),
        (["format=onnx", "resolution=0"], "resolution: .*greater than or equal to 1"),
    ],
)
def test_settings_that_cannot_be(words, message):
    with pytest.raises(ConfigError, match=message):
        read_settings(words)


def test_the_lines_say_what_and_how_near(tmp_path):
    folder = made_task_model(tmp_path / "task", nn.Linear(32, 2), task={"kind": "classify", "classes": ["a", "b"]})
    lines = command.export(folder, tmp_path / "out", ExportConfig(), no_tasks)
    assert lines[0] == f"wrote     {tmp_path / 'out'}: timm model"
    assert lines[1].startswith("parity    ")
    assert lines[1].endswith(" tensors that timm loads: 0.0 apart")
    assert lines[2].startswith("parity    logits: ")
    assert lines[3] == f'use       model = timm.create_model("local-dir:{tmp_path / "out"}", pretrained=True).eval()'
    assert "tensors that timm loads: 0.0 apart" in (tmp_path / "out" / "README.md").read_text()
    dense = made_task_model(tmp_path / "dense", nn.Conv2d(32, 2, 1), task={"kind": "segment", "classes": ["a", "b"]})
    assert "without the head" in command.export(dense, tmp_path / "t", ExportConfig(), no_tasks)[0]
    assert "the head stays behind" in command.export(dense, tmp_path / "h", ExportConfig(format="hf"), no_tasks)[0]


def test_without_transformers_the_parity_is_said_to_be_unknown(tmp_path, monkeypatch):
    monkeypatch.setattr("swinmim.export.huggingface.find_spec", lambda name: None)
    folder = save_encoder(made_encoder(), tmp_path / "encoder")
    lines = command.export(folder, tmp_path / "out", ExportConfig(format="hf"), no_tasks)
    assert lines[1] == "parity    not measured, transformers is not installed: pip install 'swinmim[transformers]'"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"format": "onnx", "part": "task"}, CheckpointError, "asked for the task's network"),
        ({"format": "onnx", "part": "encoder", "resolution": 100}, ConfigError, "Resolution 100 does not fit"),
        ({"format": "hf", "part": "task"}, CheckpointError, "holds an encoder without a head"),
    ],
)
def test_a_failure_leaves_nothing(tmp_path, settings, error, message):
    folder = save_encoder(made_encoder(), tmp_path / "encoder")
    with pytest.raises(error, match=message):
        command.export(folder, tmp_path / "out", ExportConfig(**settings), no_tasks)
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_a_folder_that_exists_is_kept(tmp_path):
    folder = save_encoder(made_encoder(), tmp_path / "encoder")
    for name, make in (("file", lambda path: path.touch()), ("link", lambda path: path.symlink_to("nowhere"))):
        make(tmp_path / name)
        with pytest.raises(CheckpointError, match=f"{name} exists; choose another path"):
            command.export(folder, tmp_path / name, ExportConfig(), no_tasks)
    with pytest.raises(CheckpointError, match="encoder exists"):
        command.export(folder, folder, ExportConfig(), no_tasks)


def test_the_card_tells_the_chain_and_no_paths(tmp_path):
    """Of paths names only, and nothing of others becomes markup."""
    mim = save_encoder(
        made_encoder(),
        tmp_path / "mim" / "encoder",
        {"recipe": {"method": "SimMIM", "mim": {"mask_ratio": 0.6}}, "data": {"fingerprint": "f00", "samples": 5},
         "parent": "/nowhere/first/checkpoints/step_00000010"},
    )  # fmt: skip
    chain = [ancestor.model_dump() for ancestor in load_manifest(mim).chain(str(mim.parent))]
    folder = made_task_model(
        tmp_path / "task", nn.Linear(32, 2),
        task={"kind": "classify", "classes": ["hen`s", "<b>"]}, parent=str(mim.parent), parents=chain,
        data={"path": "/home/me/photos"}, metrics={"val/top1": 0.8125}, recipe={"method": "supervised fine-tuning"},
    )  # fmt: skip
    command.export(folder, tmp_path / "out", ExportConfig(), no_tasks)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n")
    for words in (
        "# swinv2_t: task model for classify", "`hen's`, `&lt;b>`", "| val/top1 | 0.8125 |", "| path | photos |",
        "## Started from: mim", "| mim.mask_ratio | 0.6 |", "| fingerprint | f00 |",
        "## Started from: first\n\nNothing more is known.", "adds `license: ...`", '"local-dir:FOLDER"',
    ):  # fmt: skip
        assert words in card
    assert card.index("Started from: mim") < card.index("Started from: first")
    for path in (str(tmp_path), "/home", "/nowhere"):
        assert path not in card
    old = made_task_model(tmp_path / "old", nn.Linear(32, 2), parent="/runs/mim/encoder")
    command.export(old, tmp_path / "of_old", ExportConfig(), no_tasks)
    assert "## Started from: mim" in (tmp_path / "of_old" / "README.md").read_text()
