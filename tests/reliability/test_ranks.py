"""Processes that die, stop or hang, and exceptions: who says what, how soon, and what a resumed run finds."""

import os
import signal
import time

import pytest
import torch
from runs import Fault, losses, weights

RANK_LOST = 69
OFTEN = "callbacks.checkpoint.every_steps=2"


def lose(run, rank, number, *, until):
    """Signal one rank after its third step; the exit codes, and the seconds until all others ended."""
    run.reached(3)  # of which two are in a checkpoint
    os.kill(run.processes[rank].pid, number)
    begun = time.monotonic()
    for other in run.processes:
        if other is not run.processes[rank]:
            other.join(until)
    seconds = time.monotonic() - begun
    codes = [process.exitcode for process in run.processes]
    run.kill()
    return codes, seconds


@pytest.mark.reliability
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other_which_names_it(tmp_path, start, same_end, victim):
    slow = [Fault("pause", (4, 5, 6), rank=rank) for rank in range(2)]
    run = start(tmp_path / "run", OFTEN, "data.num_workers=1", world=2, faults=slow)
    codes, seconds = lose(run, victim, signal.SIGKILL, until=30)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == RANK_LOST, run.text(1 - victim)
    assert seconds < 30
    assert f"the process of rank {victim} is gone; last step" in run.text(1 - victim)
    again = start(tmp_path / "run", "resume=auto", world=2)
    assert again.wait() == [0, 0], again.text() + again.text(1)
    same_end(tmp_path / "run", world=2, repeated=1)


@pytest.mark.reliability
@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_rank_ends_the_other_within_the_set_time(tmp_path, start, victim):
    slow = [Fault("pause", (4, 5, 6), rank=rank) for rank in range(2)]
    run = start(tmp_path / "run", "callbacks.heartbeat.silence_s=4", world=2, faults=slow)
    codes, seconds = lose(run, victim, signal.SIGSTOP, until=30)
    assert codes[1 - victim] == RANK_LOST, run.text(1 - victim)
    assert f"rank {victim} has not reported for 4 s; last step" in run.text(1 - victim)
    assert seconds + 1 >= 4
    assert seconds < 4 + 8  # processes that start and end on two busy cores


@pytest.mark.reliability
def test_a_rank_that_hangs_ends_all_and_is_named_with_what_it_was_doing(tmp_path, start):
    settings = ("callbacks.heartbeat.silence_s=2", "callbacks.heartbeat.stall_s=5")
    run = start(tmp_path / "run", *settings, world=2, faults=[Fault("sleep", (4,), rank=1)])
    assert run.wait(90) == [RANK_LOST, RANK_LOST], run.text() + run.text(1)
    for rank in range(2):
        assert "furthest behind: rank 1, last step 3 (forward pass)" in run.text(rank)
    assert "in _act" in run.text(1)  # the stack of the thread that hangs


@pytest.mark.reliability
def test_an_exception_on_one_rank_ends_the_others_and_leaves_the_periodic_checkpoint(tmp_path, start, same_end):
    run = start(tmp_path / "run", OFTEN, world=2, faults=[Fault("raise", (4,), rank=1)])
    codes = run.wait(60)
    assert codes[1] == 1, run.text(1)
    assert codes[0] in (1, RANK_LOST), run.text()
    assert "a fault of the program" in run.text(1)
    assert "rank 0: rank 1 ended with RuntimeError: a fault of the program" in run.text()
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("step_*")] == ["step_00000002"]
    assert start(tmp_path / "run", "resume=auto", world=2).wait() == [0, 0]
    same_end(tmp_path / "run", world=2, repeated=1)


@pytest.mark.slow
def test_an_exception_leaves_a_checkpoint_of_the_last_whole_step(tmp_path, start, same_end):
    run = start(tmp_path / "run", faults=[Fault("raise", (4,))])
    assert run.wait() == [1], run.text()
    assert "a fault of the program" in run.text()
    assert "step 3 is saved in" in run.text()
    assert start(tmp_path / "run", "resume=auto").wait() == [0]
    same_end(tmp_path / "run")


@pytest.mark.reliability
def test_an_exception_inside_an_accumulation_is_resumed_from_the_step_before(tmp_path, start, whole):
    halves = "batch_size=8"
    calm = start(tmp_path / "calm", halves)
    run = start(tmp_path / "run", halves, faults=[Fault("raise", (6,))])  # second half of step 3
    assert (calm.wait(), run.wait()) == ([0], [1]), run.text()
    assert "step 2 is saved in" in run.text()
    assert start(tmp_path / "run", halves, "resume=auto").wait() == [0]
    assert losses(tmp_path / "run")[-6:] == losses(tmp_path / "calm")[-6:]


@pytest.mark.reliability
def test_an_exception_in_validation_loses_no_step(tmp_path, start, whole):
    run = start(tmp_path / "run", faults=[Fault("raise_in_validation")])
    assert run.wait() == [1], run.text()
    assert "step 8 is saved in" in run.text()
    again = start(tmp_path / "run", "resume=auto")
    assert again.wait() == [0], again.text()
    expected, final = whole()
    assert losses(tmp_path / "run") == expected
    found = weights(tmp_path / "run")
    assert all(torch.equal(tensor, found[name]) for name, tensor in final.items())


@pytest.mark.reliability
def test_a_killed_loader_is_named_and_the_run_resumes_exactly(tmp_path, start, same_end):
    begun = time.monotonic()
    run = start(tmp_path / "run", "data.num_workers=2", faults=[Fault("kill_loader", (2,))])
    assert run.wait() == [3], run.text()
    assert time.monotonic() - begun < 30
    assert "A loader process died" in run.text()
    assert "-9" in run.text()
    assert "Traceback" not in run.text()
    again = start(tmp_path / "run", "resume=auto")
    assert again.wait() == [0], again.text()
    same_end(tmp_path / "run")
