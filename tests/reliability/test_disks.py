"""Disks that are full or closed: a clear error, and the checkpoints that were there."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from swinmim.checkpoint import io

MOUNT = "mount -t tmpfs -o size=64m tmpfs"


def has_namespaces(folder):
    command = ["unshare", "-Urm", "sh", "-c", f"{MOUNT} {folder}"]
    return shutil.which("unshare") and subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.slow
@pytest.mark.reliability
def test_a_full_disk_leaves_the_previous_checkpoint(tiny, tmp_path):
    if not has_namespaces(tmp_path):
        pytest.skip("user namespaces are not allowed here")
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    wide = ("model.embed_dim=96", "model.head_dim=16", "resume=auto", f"output_dir={run}")  # 34 MB a checkpoint
    command = [sys.executable, "-m", "pretrain", *tiny, *wide, "callbacks.checkpoint.every_steps=1"]
    # the disk is gone with its namespace, so what it holds is looked at there
    script = f"""{MOUNT} {run}/checkpoints && "$@"; echo "exit code $?"
        ls -A {run}/checkpoints; du -sm {run}/checkpoints/step_*; ls -A {tmp_path}/tmp
        {sys.executable} -c "from swinmim.checkpoint import io; from pathlib import Path
print(io.newest(Path('{run}/checkpoints')))" """
    (tmp_path / "tmp").mkdir()
    result = subprocess.run(
        ["unshare", "-Urm", "sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path / "tmp")},
    )
    assert "exit code 4" in result.stdout, result.stdout + result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    assert "disk full: the checkpoint needs" in result.stderr
    assert f"mounted at {run}/checkpoints" in result.stderr
    free, unfinished = re.search(r"; ([\d,]+) bytes are free .* beside the ([\d,]+) of its", result.stderr).groups()
    assert int(free.replace(",", "")) < 1 << 20  # as it was when the disk refused, not after the draft had gone
    assert int(unfinished.replace(",", "")) > 1 << 20
    listing = result.stdout.split()
    assert "step_00000001" in listing, result.stdout + result.stderr
    assert "step_00000002" not in listing
    assert ".step_00000002.partial" not in listing
    assert f"(PosixPath('{run}/checkpoints/step_00000001'), [])" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["from the start", "during the run"])
def test_a_read_only_directory_is_an_error(pretrain, tmp_path, closed):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    if closed == "from the start":
        (run / "checkpoints").chmod(0o555)
    options = ("callbacks.checkpoint.every_steps=1", "resume=auto")
    process = pretrain(run, *options, unprivileged=True)
    if closed == "during the run":
        while process.alive and not io.step_folder(run / "checkpoints", 1).exists():
            pass
        (run / "checkpoints").chmod(0o555)
    assert process.wait() == [4], process.text()
    assert "cannot be written to" in process.text()
    assert "Permission denied" in process.text()
    assert "Traceback" not in process.text()
    (run / "checkpoints").chmod(0o755)
    assert (io.newest(run / "checkpoints")[0] is not None) == (closed == "during the run")
