import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time

import pytest

from swinmim.errors import ConfigError
from swinmim.training import run_lock
from swinmim.training.run_lock import NAME, held

HOLDER = """
import sys
from pathlib import Path
from swinmim.training import run_lock
run_lock.socket.gethostname = lambda: sys.argv[2]
with run_lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the directory `tmp_path/run`, on the machine of that name."""
    started = []

    def hold(host):
        command = [sys.executable, "-c", HOLDER, tmp_path / "run", host]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.communicate()


def test_the_lock_names_its_owner_and_leaves_nothing(tmp_path):
    with held(tmp_path / "a" / "run"):
        owner = json.loads((tmp_path / "a" / "run" / NAME).read_text())
        assert (owner["host"], owner["process"]) == (socket.gethostname(), os.getpid())
    assert list(tmp_path.iterdir()) == []  # no directory of a start that wrote nothing


def test_what_a_run_wrote_stays(tmp_path):
    with held(tmp_path / "run"):
        (tmp_path / "run" / "file").write_text("")
    assert os.listdir(tmp_path / "run") == ["file"]


def test_a_second_run_is_refused_and_a_third_goes_on(tmp_path, holder):
    process = holder(socket.gethostname())
    with pytest.raises(ConfigError, match=rf"goes on: process {process.pid} on {socket.gethostname()}, since"):
        held(tmp_path / "run").__enter__()
    process.kill()
    process.wait()
    with held(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / NAME).read_text())["process"] == os.getpid()


def test_an_owner_on_another_machine_is_waited_for(tmp_path, holder, caplog, monkeypatch):
    process = holder("elsewhere")
    monkeypatch.setattr(time, "sleep", lambda _: process.kill())
    with held(tmp_path / "run"):
        assert f"is held by process {process.pid} on elsewhere" in caplog.text


def test_an_owner_that_cannot_be_read_is_another_process(tmp_path, holder):
    holder("elsewhere")
    (tmp_path / "run" / NAME).write_text('{"host": 1e400}')
    with pytest.raises(ConfigError, match="goes on: another process"):
        held(tmp_path / "run").__enter__()


def test_a_disk_without_locks_is_named(tmp_path, caplog, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    with held(tmp_path / "run"):
        assert "has no locks (No locks available). Two runs" in caplog.text


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output_dir=.*file/run cannot be used: Not a directory"):
        held(tmp_path / "file" / "run").__enter__()


NFS = "36 35 0:49 / /runs rw,relatime shared:1 - {} server:/runs rw,vers=3,{}addr=10.0.0.1"


@pytest.mark.parametrize(
    ("line", "local"),
    [
        (NFS.format("nfs4", ""), False),
        (NFS.format("nfs4", "local_lock=none,"), False),
        (NFS.format("nfs", "nolock,local_lock=all,"), True),
        (NFS.format("nfs", "local_lock=posix,"), True),
        (NFS.format("ext4", "nolock,"), False),
    ],
)
def test_nfs_that_keeps_locks_to_one_machine_is_known(line, local):
    assert run_lock._is_local(os.makedev(0, 49), f"1 2 8:1 / / rw - ext4 x rw\n{line}\n") == local
    assert not run_lock._is_local(os.makedev(0, 50), line)
