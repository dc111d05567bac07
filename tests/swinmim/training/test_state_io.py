import pickle
import tempfile

import pytest
import torch

from swinmim.checkpoint.digest import digest
from swinmim.errors import CheckpointError
from swinmim.training.state_io import PARTS, StateIO


def test_state_comes_back_and_nothing_is_written_elsewhere(tmp_path, monkeypatch):
    empty = tmp_path / "tmp"
    empty.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(empty))
    io = StateIO()
    whole = dict.fromkeys(PARTS) | {"w": torch.arange(5.0), "epoch": 3}
    io.save_checkpoint(whole, tmp_path / "state.ckpt")
    assert io.error is None
    assert io.file is not None
    assert io.file.close() == digest(tmp_path / "state.ckpt")
    assert not list(empty.iterdir())
    state = io.load_checkpoint(tmp_path / "state.ckpt")
    assert torch.equal(state["w"], torch.arange(5.0))
    assert state["epoch"] == 3


def test_a_refused_write_is_kept_for_after_the_barrier(tmp_path):
    io = StateIO()
    io.save_checkpoint({"w": torch.ones(3)}, tmp_path / "nowhere" / "state.ckpt")
    assert isinstance(io.error, FileNotFoundError)
    assert io.file is None
    io.save_checkpoint({"w": torch.ones(3)}, tmp_path / "state.ckpt")
    assert io.error is None
    assert io.file is not None
    io.file.close()


def test_a_fault_of_the_program_is_raised(tmp_path):
    with pytest.raises((pickle.PicklingError, AttributeError)):
        StateIO().save_checkpoint({"w": lambda: None}, tmp_path / "state.ckpt")


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("asked", [None, True, False])
def test_code_in_a_state_is_refused_whatever_is_asked_for(tmp_path, monkeypatch, asked):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"w": Hostile(tmp_path / "canary")}, tmp_path / "state.ckpt")
    with pytest.raises(CheckpointError, match="not a trainer state"):
        StateIO().load_checkpoint(tmp_path / "state.ckpt", weights_only=asked)
    assert not (tmp_path / "canary").exists()


def test_no_checkpoint_at_all_is_refused(tmp_path):
    (tmp_path / "state.ckpt").write_bytes(b"no zip, no pickle")
    with pytest.raises(CheckpointError, match="not a trainer state"):
        StateIO().load_checkpoint(tmp_path / "state.ckpt")


@pytest.mark.parametrize("damage", ["bit flip", "half", "empty", "a list", "no parts"])
def test_a_damaged_state_is_named_without_the_advice_to_load_it_unsafely(tmp_path, damage):
    path = tmp_path / "state.ckpt"
    torch.save({"list": [1], "dict": {"epoch": 1}}.get(damage[2:], dict.fromkeys(PARTS) | {"w": torch.ones(9)}), path)
    if damage == "no parts":
        torch.save({"epoch": 1}, path)
    data = bytearray(path.read_bytes())
    if damage == "bit flip":
        data[data.index(b"data.pkl") + 70] ^= 255
    path.write_bytes({"half": data[: len(data) // 2], "empty": b""}.get(damage, data))
    with pytest.raises(CheckpointError, match="is not a trainer state") as caught:
        StateIO().load_checkpoint(path)
    assert "weights_only" not in str(caught.value)
    assert "older step" in str(caught.value)
