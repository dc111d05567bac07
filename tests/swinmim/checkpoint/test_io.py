import pytest

from swinmim.checkpoint import io
from swinmim.errors import CheckpointError


def save(root, step, content=b"weights"):
    folder = io.step_folder(root, step)
    partial = io.begin(folder)
    (partial / io.STATE).write_bytes(content)
    (partial / "encoder").mkdir()
    (partial / "encoder" / "model.safetensors").write_bytes(content)
    io.commit(partial, folder)
    return folder


def test_names_hold_no_equals_sign_and_sort_by_step(tmp_path):
    assert io.step_folder(tmp_path, 120).name == "step_00000120"
    assert "=" not in io.step_folder(tmp_path, 9).name


def test_commit_is_complete_and_leaves_nothing_else(tmp_path):
    folder = save(tmp_path, 3)
    assert io.problem(folder) is None
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000003"]


def test_leftovers_of_a_killed_save_are_removed_by_the_next(tmp_path):
    partial = io.begin(io.step_folder(tmp_path, 3))
    (partial / io.STATE).write_bytes(b"half")
    assert io.newest(tmp_path) == (None, [])
    save(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000004"]


@pytest.mark.parametrize("damage", ["short", "gone", "no marker"])
def test_newest_falls_back_and_says_why(tmp_path, damage):
    older, newer = save(tmp_path, 3), save(tmp_path, 9)
    match damage:
        case "short":
            (newer / io.STATE).write_bytes(b"weigh")
        case "gone":
            (newer / "encoder" / "model.safetensors").unlink()
        case "no marker":
            (newer / io.COMPLETE).unlink()
    found, skipped = io.newest(tmp_path)
    assert found == older
    assert len(skipped) == 1
    assert "step_00000009" in skipped[0]
    with pytest.raises(CheckpointError, match="step_00000009"):
        io.find(newer)


def test_find_takes_a_run_a_step_or_its_state(tmp_path):
    folder = save(tmp_path / "checkpoints", 5)
    assert io.find(tmp_path) == folder
    assert io.find(folder) == folder
    assert io.find(folder / io.STATE) == folder
    with pytest.raises(CheckpointError, match="Give a run directory"):
        io.find(tmp_path / "elsewhere")


def test_prune_keeps_the_last_and_the_named(tmp_path):
    folders = [save(tmp_path, step) for step in (1, 2, 3, 4)]
    io.prune(tmp_path, 2, [folders[0]])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000001", "step_00000003", "step_00000004"]


def test_link_is_relative_and_replaced(tmp_path):
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    io.point(tmp_path / "last", first)
    io.point(tmp_path / "last", second)
    assert (tmp_path / "last").resolve() == second
    assert not (tmp_path / "last").readlink().is_absolute()
