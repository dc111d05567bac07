import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from swinmim.checkpoint import io
from swinmim.checkpoint.digest import digest
from swinmim.errors import CheckpointError


def save(root, step, content=b"weights"):
    draft = io.Draft(io.step_folder(root, step))
    (draft.path / io.STATE).write_bytes(content)
    (draft.path / io.CONFIG).write_text("{}")
    (draft.path / "encoder").mkdir()
    (draft.path / "encoder" / "model.safetensors").write_bytes(content)
    draft.seal(draft.path / "encoder")
    draft.commit()
    return draft.folder


def names(root):
    return sorted(path.name for path in root.iterdir())


def test_names_hold_no_equals_sign_and_sort_by_step(tmp_path):
    assert io.step_folder(tmp_path, 120).name == "step_00000120"
    assert "=" not in io.step_folder(tmp_path, 9).name


def test_commit_is_complete_and_leaves_nothing_else(tmp_path):
    folder = save(tmp_path, 3)
    assert io.problem(folder) is None
    assert names(tmp_path) == ["step_00000003"]
    marker = io.read_marker(folder)
    assert set(marker.files) == {"state.ckpt", "config.json", "encoder/model.safetensors"}
    assert marker.files["state.ckpt"] == digest(folder / "state.ckpt")
    assert marker.bytes == 2 * len(b"weights") + len("{}")


def test_sharded_state_is_covered_file_by_file(tmp_path):
    draft = io.Draft(io.step_folder(tmp_path, 3))
    (draft.path / io.STATE / "checkpoint").mkdir(parents=True)
    for rank in range(3):
        (draft.path / io.STATE / "checkpoint" / f"rank_{rank}.pt").write_bytes(bytes([rank]) * 9)
    (draft.path / io.CONFIG).write_text("{}")
    # what other ranks hashed arrives as entries
    other = draft.path / io.STATE / "checkpoint" / "rank_2.pt"
    draft.sealed(other, digest(other))
    draft.commit()
    assert io.find(tmp_path / "step_00000003" / io.STATE) == draft.folder
    (draft.folder / io.STATE / "checkpoint" / "rank_1.pt").write_bytes(b"123456789")
    assert io.problem(draft.folder) == (
        "step_00000003/state.ckpt/checkpoint/rank_1.pt is damaged: its SHA-256 is not the one it was written with"
    )


def test_leftovers_of_a_killed_save_are_removed_by_the_next(tmp_path):
    draft = io.Draft(io.step_folder(tmp_path, 3))
    (draft.path / io.STATE).write_bytes(b"half")
    assert io.newest(tmp_path) == (None, [])
    save(tmp_path, 4)
    assert names(tmp_path) == ["step_00000004"]


def damage(folder, kind):
    state = folder / io.STATE
    match kind:
        case "truncated":
            state.write_bytes(b"weigh")
        case "bit flip":
            state.write_bytes(bytes([state.read_bytes()[0] ^ 1]) + state.read_bytes()[1:])
        case "gone":
            (folder / "encoder" / "model.safetensors").unlink()
        case "no marker":
            (folder / io.COMPLETE).unlink()
        case "half a marker":
            (folder / io.COMPLETE).write_text((folder / io.COMPLETE).read_text()[:40])
        case "another version":
            text = json.loads((folder / io.COMPLETE).read_text())
            (folder / io.COMPLETE).write_text(json.dumps(text | {"version": 99}))

        case "pipe for a marker" | "pipe for settings" | "pipe for a state":
            path = folder / {"marker": io.COMPLETE, "settings": io.CONFIG, "state": io.STATE}[kind.split()[-1]]
            path.unlink()
            os.mkfifo(path)
            if path.name == io.STATE:
                rewrite(folder, lambda text: text["files"][io.STATE].update(bytes=0))
        case "a marker of gigabytes":
            os.truncate(folder / io.COMPLETE, 20 << 30)
        case "a nested marker":
            (folder / io.COMPLETE).write_text("[" * 100_000)
        case "a list for a marker":
            (folder / io.COMPLETE).write_text("[]")
        case "nested settings":
            settle(folder, "[" * 100_000)
        case "settings that are a list":
            settle(folder, "[1]")
        case "an infinite setting":
            settle(folder, '{"seed": 1e400}')
        case "settings of megabytes":
            settle(folder, json.dumps({"a": "a" * io.LARGEST_CONFIG}))
        case "number in words" | "infinite number" | "negative number":
            value = {"number in words": "9", "infinite number": 0, "negative number": -1}[kind]
            rewrite(folder, lambda text: text.update(number=value))
            if value == 0:
                (folder / io.COMPLETE).write_text((folder / io.COMPLETE).read_text().replace('r": 0', 'r": 1e400'))
        case "files in a list":
            rewrite(folder, lambda text: text.update(files=[*text["files"]]))
        case "no files":
            rewrite(folder, lambda text: text.update(files={}))
        case "a file without settings":
            rewrite(folder, lambda text: text["files"].pop(io.CONFIG))
        case "a file outside" | "an absolute file":
            outside = "../outside" if kind == "a file outside" else "/etc/passwd"
            rewrite(folder, lambda text: text["files"].update({outside: text["files"][io.STATE]}))
        case "a size in words":
            rewrite(folder, lambda text: text["files"][io.STATE].update(bytes="7"))
        case "a hash of another length":
            rewrite(folder, lambda text: text["files"][io.STATE].update(sha256="00"))


def rewrite(folder, change):
    """Change the marker."""
    text = json.loads((folder / io.COMPLETE).read_text())
    change(text)
    (folder / io.COMPLETE).write_text(json.dumps(text))


def settle(folder, text):
    """Other settings, and a marker that is right about them."""
    (folder / io.CONFIG).write_text(text)
    entry = digest(folder / io.CONFIG)._asdict()
    rewrite(folder, lambda marker: marker["files"].update({io.CONFIG: entry}))


DAMAGES = {
    "pipe for a marker": "COMPLETE cannot be read: is no regular file",
    "pipe for settings": "config.json cannot be read: is no regular file",
    "pipe for a state": "state.ckpt is no regular file",
    "a marker of gigabytes": "more than it can have",
    "a nested marker": "recursion limit",
    "a list for a marker": "should be an object",
    "nested settings": "config.json cannot be read: is no JSON",
    "settings that are a list": "config.json cannot be read",
    "an infinite setting": "finite",
    "settings of megabytes": "more than it can have",
    "number in words": "number",
    "infinite number": "finite",
    "negative number": "number",
    "files in a list": "files",
    "no files": "lists no state.ckpt",
    "a file without settings": "lists no config.json",
    "a file outside": "must be a path inside",
    "an absolute file": "must be a path inside",
    "a size in words": "bytes",
    "a hash of another length": "sha256",
    "truncated": "is truncated: it should have 7 bytes and has 5",
    "bit flip": "is damaged: its SHA-256",
    "gone": "cannot be read: No such file",
    "no marker": "has no COMPLETE marker",
    "half a marker": "COMPLETE cannot be read",
    "another version": "is of version 99",
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_newest_falls_back_and_says_why(tmp_path, kind, caplog):
    older, newer = save(tmp_path / "checkpoints", 3), save(tmp_path / "checkpoints", 9)
    damage(newer, kind)
    found, skipped = io.newest(tmp_path / "checkpoints")
    assert found == older
    assert len(skipped) == 1
    assert skipped[0].startswith("step_00000009")
    assert DAMAGES[kind] in skipped[0]
    with pytest.raises(CheckpointError, match="step_00000009"):
        io.find(newer)
    assert io.find(tmp_path) == older
    assert io.find_newest(tmp_path / "checkpoints") == older
    assert caplog.text.count(DAMAGES[kind]) == 2  # both say what they passed over


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(tmp_path):
    assert io.find_newest(tmp_path) is None
    damage(save(tmp_path, 3), "bit flip")
    damage(save(tmp_path, 4), "no marker")
    with pytest.raises(CheckpointError, match=r"none of the 2 checkpoints .* Move them away"):
        io.find_newest(tmp_path)


def test_newest_is_the_last_written_not_the_highest_step(tmp_path):
    for step in (2, 4, 6):
        save(tmp_path, step)
    again = save(tmp_path, 3)  # a run that went back to step 2
    assert io.newest(tmp_path) == (again, [])
    assert [io.read_marker(io.step_folder(tmp_path, step)).number for step in (2, 4, 6, 3)] == [1, 2, 3, 4]
    io.prune(tmp_path, 2)
    assert names(tmp_path) == ["step_00000003", "step_00000006"]


def test_a_step_saved_again_can_be_found_at_every_moment(tmp_path, monkeypatch):
    folder = save(tmp_path, 3, b"first")
    seen = []
    rename, rmtree = Path.rename, shutil.rmtree

    def spy(act):
        def wrapped(*args, **kwargs):
            seen.append(io.newest(tmp_path)[0])
            result = act(*args, **kwargs)
            seen.append(io.newest(tmp_path)[0])
            return result

        return wrapped

    monkeypatch.setattr(Path, "rename", spy(rename))
    monkeypatch.setattr(shutil, "rmtree", spy(rmtree))
    save(tmp_path, 3, b"second")
    monkeypatch.undo()
    assert len(seen) >= 8
    assert None not in seen
    assert (folder / io.STATE).read_bytes() == b"second"
    assert names(tmp_path) == ["step_00000003"]


@pytest.mark.parametrize("replaced", [True, False], ids=["after the new name", "before it"])
def test_a_kill_while_a_step_is_replaced(tmp_path, replaced):
    save(tmp_path, 3, b"first").rename(tmp_path / "step_00000003_old")
    if replaced:
        save(tmp_path, 2).rename(tmp_path / "step_00000003")
    found, skipped = io.newest(tmp_path)
    assert found == tmp_path / ("step_00000003" if replaced else "step_00000003_old")
    assert not skipped
    save(tmp_path, 4)
    assert names(tmp_path) == ["step_00000003" if replaced else "step_00000003_old", "step_00000004"]


def test_find_takes_a_run_a_step_or_its_state(tmp_path):
    folder = save(tmp_path / "checkpoints", 5)
    assert io.find(tmp_path) == folder
    assert io.find(folder) == folder
    assert io.find(folder / io.STATE) == folder
    with pytest.raises(CheckpointError, match="Give a run directory"):
        io.find(tmp_path / "elsewhere")


def test_prune_keeps_the_last_the_named_and_the_multiples(tmp_path):
    folders = {step: save(tmp_path, step) for step in range(1, 10)}
    io.prune(tmp_path, 2, [folders[1]], keep_every=4)
    assert names(tmp_path) == [f"step_{step:08d}" for step in (1, 4, 8, 9)]


@pytest.mark.parametrize("kind", ["truncated", "gone", "no marker"])
def test_prune_never_removes_the_newest_sound_one(tmp_path, kind):
    folders = [save(tmp_path, step) for step in (1, 2, 3)]
    damage(folders[2], kind)
    io.prune(tmp_path, 1)
    assert io.newest(tmp_path)[0] == folders[1]
    assert not folders[0].exists()


def test_link_is_relative_and_replaced(tmp_path):
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    io.point(tmp_path / "last", first)
    io.point(tmp_path / "last", second)
    assert (tmp_path / "last").resolve() == second
    assert not (tmp_path / "last").readlink().is_absolute()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            errno.ENOSPC,
            r"disk full: the checkpoint needs 16 bytes as the last one did; [\d,]+ bytes are free .*mounted",
        ),
        (errno.EACCES, "cannot be written to .*: Permission denied. Make it writable"),
        (errno.EIO, "failed: .*Older checkpoints are unharmed"),
    ],
)
def test_what_the_system_refuses_is_explained(tmp_path, monkeypatch, number, message):
    older = save(tmp_path, 1)
    draft = io.Draft(io.step_folder(tmp_path, 2))
    (draft.path / io.STATE).write_bytes(b"w" * 99)

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(CheckpointError, match=message) as caught:
        draft.commit()
    assert caught.value.exit_code == 4
    monkeypatch.undo()
    assert io.newest(tmp_path) == (older, [])
    assert not draft.folder.exists()
    assert draft.path.exists() == (number != errno.ENOSPC)  # a full disk gets its room back at once


def test_the_first_checkpoint_on_a_full_disk_says_what_fitted(tmp_path):
    draft = io.Draft(io.step_folder(tmp_path, 2))
    (draft.path / io.STATE).write_bytes(b"w" * 1234)
    with (
        pytest.raises(CheckpointError, match="more than the 1,234 bytes that fitted"),
        io.explained(tmp_path, draft.path),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_in_the_place_of_the_directory_is_refused_at_the_start(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="File exists"):
        io.check_writable(tmp_path / "checkpoints")
