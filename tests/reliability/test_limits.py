"""Limits of the machine and mishaps around a run: each says its name and the cure."""

import shutil
import subprocess
import sys

import pytest
from commands import call
from runs import Fault

pytestmark = pytest.mark.reliability


def run(shell, *command, cwd):
    """The command typed behind some words of a shell."""
    done = call(["sh", "-c", f'{shell} && exec "$@"', "sh", sys.executable, "-m", "pretrain", *command], cwd)
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("files", [50, 90])
def test_too_few_file_handles(tmp_path, small, files):
    done = run(f"ulimit -n {files}", *small, "data.num_workers=4", f"output_dir={tmp_path / 'run'}", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert f"may have {files} files open at once" in done.stderr
    assert "ulimit -n 65536" in done.stderr
    assert "data.num_workers=0" in done.stderr
    assert "image out" not in done.stderr


def has_namespaces():
    return shutil.which("unshare") and not subprocess.run(["unshare", "-Urm", "true"], check=False).returncode


def test_small_shared_memory(tmp_path, small):
    if not has_namespaces():
        pytest.skip("user namespaces are not allowed here")
    command = ["unshare", "-Urm", "sh", "-c", 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"', "sh"]
    command += [sys.executable, "-m", "pretrain", *small, "data.num_workers=2", f"output_dir={tmp_path / 'run'}"]
    done = call(command, tmp_path)
    assert done.returncode == 3, done.stderr
    assert "/dev/shm, where loader processes leave their images, is too small: 65,536 bytes" in done.stderr
    assert "data.num_workers=0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("saving", ["callbacks.checkpoint.every_steps=1", "callbacks.checkpoint.every_steps=null"])
def test_a_directory_that_was_moved_away_is_named(tmp_path, start, saving):
    directory, moved = tmp_path / "run", tmp_path / "moved"
    process = start(directory, saving, faults=[Fault("pause", (4, 5, 6))])
    process.reached(3)
    directory.rename(moved)
    assert process.wait() == [4], process.text()
    assert f"output_dir={directory} is gone: it was moved or removed" in process.text()
    assert "Traceback" not in process.text()
    assert not directory.exists()
    again = start(moved, "resume=auto")
    assert again.wait() == [0], again.text()
