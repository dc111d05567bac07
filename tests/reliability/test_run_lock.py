"""One run per directory, whoever starts a second one, and whatever ended the first."""

import os
import re
import signal
import socket
import time

import pytest
import yaml
from runs import Fault, losses, step_of

from swinmim.checkpoint import io
from swinmim.training.run_lock import NAME

pytestmark = pytest.mark.reliability


def refused(run):
    """A second run was told of the first, in one message and without touching anything."""
    text = run.text()
    assert re.search(rf"belongs to a run that goes on: process \d+ on {socket.gethostname()}, since", text), text
    assert "Traceback" not in text
    return True


@pytest.mark.slow
@pytest.mark.parametrize("resume", [[], ["resume=auto"]], ids=["two starts", "two continue"])
def test_of_two_starts_at_one_instant_one_runs(tmp_path, start, resume):
    output_dir = tmp_path / "run"
    if resume:
        stopped = start(output_dir, faults=[Fault("signal", (3,), signals=(signal.SIGTERM,))])
        assert stopped.wait() == [75], stopped.text()
    hold = [Fault("pause", (1, 2, 3))]  # until the second has given up
    both = [start(output_dir, *resume, f"callbacks.checkpoint.keep_last={n}", faults=hold) for n in (11, 12)]
    codes = [run.wait()[0] for run in both]
    assert sorted(codes) == [0, 2], both[0].text() + both[1].text()
    winner = codes.index(0)
    assert refused(both[1 - winner])
    typed = yaml.safe_load((output_dir / ".hydra" / "overrides.yaml").read_text())
    assert f"callbacks.checkpoint.keep_last={11 + winner}" in typed
    assert io.newest(output_dir / "checkpoints") == (io.step_folder(output_dir / "checkpoints", 8), [])
    assert not (output_dir / NAME).exists()


def test_the_directory_of_a_killed_run_is_free_at_once(tmp_path, start, same_end):
    """Also while its loader processes live on for a moment."""
    output_dir = tmp_path / "run"
    options = ("callbacks.checkpoint.every_steps=1", "data.num_workers=1")
    with start(output_dir, *options, faults=[Fault("sleep", (4,))]) as run:
        run.reached(3)
        while not io.step_folder(output_dir / "checkpoints", 3).exists():
            time.sleep(0.01)
        waiting = start(output_dir, "resume=auto")
        assert waiting.wait() == [2]
        assert refused(waiting)
        run.processes[0].kill()
        run.processes[0].join()
    assert (output_dir / NAME).exists()
    again = start(output_dir, "resume=auto")
    assert again.wait() == [0], again.text()
    assert step_of(io.newest(output_dir / "checkpoints")[0]) == 8
    assert len(losses(output_dir)) == 8
    same_end(output_dir)


def test_a_planted_link_is_not_followed(tmp_path, start):
    output_dir = tmp_path / "run"
    output_dir.mkdir()
    (tmp_path / "precious").write_text("precious")
    (output_dir / NAME).symlink_to(tmp_path / "precious")
    run = start(output_dir)
    assert run.wait() == [2]
    assert f"output_dir={output_dir} cannot be used" in run.text()
    assert (tmp_path / "precious").read_text() == "precious"
    assert os.listdir(output_dir) == [NAME]
