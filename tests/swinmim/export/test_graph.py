"""ONNX and torch.export: what onnxruntime and the loaded program compute, on batches that they were not traced with."""

import json

import numpy as np
import pytest
import torch
from made_folders import made_encoder
from torch import nn

from swinmim.checkpoint.encoder import load_stored, open_encoder, save_encoder
from swinmim.errors import CheckpointError, ConfigError
from swinmim.export import graph

pytestmark = pytest.mark.slow


@pytest.fixture
def stored(tmp_path):
    return open_encoder(save_encoder(made_encoder(), tmp_path / "encoder", {"mean": (0.1, 0.2, 0.3)}))


@pytest.fixture
def network(stored):
    return graph.encoder_network(load_stored(stored, attention="reference"))


def expected(stored, images):
    encoder = load_stored(stored).eval()
    return [encoder.pool(images), *encoder.features(images)]


@torch.no_grad()
def test_onnx(stored, network, tmp_path):
    import onnxruntime

    (tmp_path / "onnx").mkdir()
    parities = graph.write_onnx(stored, network, tmp_path / "onnx")
    assert [parity.what for parity in parities] == ["onnxruntime, batch of 1", "onnxruntime, batch of 3"]
    assert all(0 < parity.difference <= 1e-4 for parity in parities)
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["pooled", "stage1", "stage2"]
    assert json.loads(session.get_modelmeta().custom_metadata_map["mean"]) == [0.1, 0.2, 0.3]
    images = torch.randn(5, 3, 64, 64)
    for ours, theirs in zip(expected(stored, images), session.run(None, {"images": images.numpy()}), strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), rtol=0, atol=1e-4 * ours.abs().max().item())
    assert sorted(path.name for path in (tmp_path / "onnx").iterdir()) == ["README.md", "model.onnx"]
    assert "`stage2` (B, 32, 8, 8)" in (tmp_path / "onnx" / "README.md").read_text()


def test_large_weights_stand_beside_the_graph(stored, network, tmp_path, monkeypatch):
    monkeypatch.setattr(graph, "LARGEST_FILE", 100)
    (tmp_path / "onnx").mkdir()
    assert graph.write_onnx(stored, network, tmp_path / "onnx")
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size > 10_000


@torch.no_grad()
def test_torch_export(stored, network, tmp_path):
    (tmp_path / "program").mkdir()
    parities = graph.write_program(stored, network, tmp_path / "program")
    assert all(parity.difference <= 1e-5 for parity in parities)
    facts = {"facts.json": ""}
    program = torch.export.load(tmp_path / "program" / "model.pt2", extra_files=facts).module()
    assert json.loads(json.loads(facts["facts.json"])["resolution"]) == [64, 64]
    images = torch.randn(5, 3, 64, 64)
    for ours, theirs in zip(expected(stored, images), program(images), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)


def test_a_network_that_depends_on_its_values_has_no_graph(stored, tmp_path):
    class Choosy(nn.Module):
        def forward(self, images):
            return (images if images.mean() > 0 else -images,)

    network = graph.ImageNetwork(Choosy(), ("output",), 3, (64, 64))
    with pytest.raises(CheckpointError, match=r"This network has no graph with a free batch: .*Load it in Python"):
        graph.write_program(stored, network, tmp_path)


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_names_the_command(stored, network, tmp_path, monkeypatch, library):
    monkeypatch.setattr(graph, "find_spec", lambda name: None if name == library else object())
    with pytest.raises(ConfigError, match=rf"format=onnx needs {library}, .* pip install 'swinmim\[onnx\]'"):
        graph.write_onnx(stored, network, tmp_path)
