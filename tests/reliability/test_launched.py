"""Runs as typed on a command line: ranks that Lightning starts itself, and a server for metrics that is not there."""

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from runs import column, losses

from swinmim.checkpoint import io
from swinmim.errors import RANK_LOST


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.reliability
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGKILL, RANK_LOST)])
def test_ranks_of_one_machine_end_together(tmp_path, small, number, code):
    """SIGTERM to the process that was typed; SIGKILL to the rank that it started."""
    run = tmp_path / "run"
    two = ("strategy=ddp", "trainer.devices=2", "batch_size=8", "trainer.max_epochs=500")
    arguments = [*small, *two, f"output_dir={run}"]
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "pretrain", *arguments]
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while len(losses(run)) < 3 and process.poll() is None:
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.1)
        others = children(process.pid)
        assert len(others) == 1
        os.kill(process.pid if number == signal.SIGTERM else others[0], number)
        assert process.wait(30) == code, (tmp_path / "log").read_text()[-3000:]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    text = (tmp_path / "log").read_text()
    if number == signal.SIGTERM:
        found, skipped = io.newest(run / "checkpoints")
        assert found is not None
        assert not skipped
        assert int(found.name.removeprefix("step_")) == len(losses(run))
    else:
        assert "rank 0: ending, because the process of rank 1 is gone; last step" in text
    time.sleep(1)
    assert not any(os.path.exists(f"/proc/{other}/exe") for other in others)


@pytest.mark.reliability
@pytest.mark.parametrize(
    "shell", ['exec "$@"', '"$@" 2>&1 | tee log', 'trap "" HUP; "$@"'], ids=["alone", "tee", "nohup"]
)
def test_a_closed_terminal_saves_and_stops(tmp_path, small, shell):
    """The window in which the command was typed is closed; what began with nohup goes on."""
    run = tmp_path / "run"
    command = [sys.executable, "-m", "pretrain", *small, "data.num_workers=1", f"output_dir={run}"]
    command += ["callbacks.checkpoint.keep_last=99"] + (["trainer.max_epochs=500"] if "trap" not in shell else [])
    ours, theirs = os.openpty()
    terminal: dict[str, Any] = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
    process = subprocess.Popen(
        ["sh", "-c", shell, "sh", *command],
        cwd=tmp_path,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY),
        **terminal,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    try:
        deadline = time.monotonic() + 120
        while len(losses(run)) < 3 and process.poll() is None:
            assert time.monotonic() < deadline
            with suppress(BlockingIOError):
                os.read(ours, 1 << 16)
            time.sleep(0.1)
        os.close(ours)
        code = process.wait(60)
        while (run / ".run_lock").exists():  # a shell ends before what it started
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    found, skipped = io.newest(run / "checkpoints")
    assert found is not None
    assert not skipped
    assert code == {"exec": 75, '"$@"': -signal.SIGHUP, "trap": 0}[shell.split()[0]]
    assert int(found.name.removeprefix("step_")) == (8 if "trap" in shell else len(losses(run)))
    assert ("SIGHUP: saving step" in (run / "pretrain.log").read_text()) == ("trap" not in shell)


@pytest.mark.reliability
def test_an_unreachable_server_costs_less_than_a_minute_and_no_question(tmp_path, start):
    environment = {"WANDB_MODE": "online", "WANDB_API_KEY": "a" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    begun = time.monotonic()
    run = start(tmp_path / "run", "logger=wandb", "trainer.max_epochs=1", environment=environment)
    assert run.wait(120) == [0], run.text()
    assert time.monotonic() - begun < 60 + 20  # the run itself, on two busy cores
    assert "logged offline" in run.text()
    assert "sync later with: wandb sync" in run.text()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert column(tmp_path / "run", "train/loss") == []  # no other logger stepped in
