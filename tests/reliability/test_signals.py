"""Signals: a last checkpoint, the documented exit code, and a resumed run that is the uninterrupted one."""

import signal
import stat

import pytest
from runs import Fault, losses

from swinmim.checkpoint import io

TERM, HUP, USR1 = signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1
SAVED = 75


def checkpoints(output_dir):
    folders = sorted((output_dir / "checkpoints").glob("step_*"))
    assert [io.problem(folder) for folder in folders] == [None] * len(folders)
    assert not list((output_dir / "checkpoints").glob(".*partial"))
    return [folder.name for folder in folders]


@pytest.mark.slow
@pytest.mark.parametrize("number", [TERM, HUP])
def test_a_signal_saves_the_step_and_nothing_is_lost(tmp_path, start, same_end, number):
    run = start(tmp_path / "run", faults=[Fault("signal", (3,), signals=(number,))])
    assert run.wait() == [SAVED], run.text()
    assert "stopped:" in run.text()
    assert f"{number.name} ended the run after step 3" in run.text()
    assert "resume=auto" in run.text()
    assert "Traceback" not in run.text()
    assert checkpoints(tmp_path / "run") == ["step_00000003"]
    assert len(losses(tmp_path / "run")) == 3
    again = start(tmp_path / "run", "resume=auto")
    assert again.wait() == [0], again.text()
    same_end(tmp_path / "run")


@pytest.mark.reliability
@pytest.mark.parametrize(
    "faults",
    [
        [Fault("signal", (3,), signals=(TERM, TERM, USR1))],
        [Fault("signal", (3,), signals=(TERM,)), Fault("save_signal", signals=(TERM, TERM))],
    ],
    ids=["three at once", "two more during the save"],
)
def test_further_signals_change_nothing(tmp_path, start, same_end, faults):
    run = start(tmp_path / "run", faults=faults)
    assert run.wait() == [SAVED], run.text()
    assert checkpoints(tmp_path / "run") == ["step_00000003"]
    assert start(tmp_path / "run", "resume=auto").wait() == [0]
    same_end(tmp_path / "run")


@pytest.mark.reliability
def test_a_signal_between_the_last_step_of_an_epoch_and_the_next(tmp_path, start, same_end):
    run = start(tmp_path / "run", faults=[Fault("signal", (5,), signals=(TERM,))])
    assert run.wait() == [SAVED], run.text()
    assert checkpoints(tmp_path / "run") == ["step_00000005"]
    assert start(tmp_path / "run", "resume=auto").wait() == [0]
    same_end(tmp_path / "run")


@pytest.mark.reliability
@pytest.mark.parametrize("number", [TERM, HUP, USR1])
def test_a_signal_to_all_processes_of_the_job_leaves_the_loaders_alive(tmp_path, start, same_end, number):
    fault = Fault("signal", (3,), signals=(number,), group=True)
    run = start(tmp_path / "run", "data.num_workers=2", faults=[fault])
    assert run.wait() == [SAVED], run.text()
    assert checkpoints(tmp_path / "run") == ["step_00000003"]
    assert start(tmp_path / "run", "resume=auto").wait() == [0]
    same_end(tmp_path / "run")


@pytest.mark.reliability
def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path, start, same_end):
    run = start(tmp_path / "run", world=2, faults=[Fault("signal", (3,), rank=1, signals=(TERM,))])
    assert run.wait() == [SAVED, SAVED], run.text() + run.text(1)
    assert checkpoints(tmp_path / "run") == ["step_00000004"]  # agreed one step later
    assert start(tmp_path / "run", "resume=auto", world=2).wait() == [0, 0]
    same_end(tmp_path / "run", world=2)


def slurm(tmp_path, number_of_tasks=1):
    """Variables of a SLURM job, and a scontrol that writes down how it was called."""
    tool = tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    return {
        "PATH": f"{tool.parent}:/usr/bin:/bin",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "pretraining",
        "SLURM_NTASKS": str(number_of_tasks),
        "SLURM_NTASKS_PER_NODE": str(number_of_tasks),
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "localhost",
    }


@pytest.mark.reliability
def test_slurm_requeues_the_job_once(tmp_path, start):
    environment = slurm(tmp_path)
    run = start(tmp_path / "run", faults=[Fault("signal", (3,), signals=(USR1, USR1))], environment=environment)
    assert run.wait() == [SAVED], run.text()
    assert (tmp_path / "calls").read_text() == "requeue 4711\n"
    assert checkpoints(tmp_path / "run") == ["step_00000003"]
    assert not list((tmp_path / "run").rglob("hpc_ckpt*"))  # Lightning's own way
    assert "SLURM will start it again" in run.text()


@pytest.mark.reliability
def test_slurm_requeues_an_array_task_once_for_two_ranks(tmp_path, start):
    environment = slurm(tmp_path) | {"SLURM_ARRAY_JOB_ID": "4700", "SLURM_ARRAY_TASK_ID": "11"}
    faults = [Fault("signal", (3,), rank=rank, signals=(USR1,)) for rank in range(2)]
    run = start(tmp_path / "run", world=2, faults=faults, environment=environment)
    assert run.wait() == [SAVED, SAVED], run.text() + run.text(1)
    assert (tmp_path / "calls").read_text() == "requeue 4700_11\n"


@pytest.mark.reliability
def test_scancel_does_not_bring_the_job_back(tmp_path, start):
    run = start(tmp_path / "run", faults=[Fault("signal", (3,), signals=(TERM,))], environment=slurm(tmp_path))
    assert run.wait() == [SAVED], run.text()
    assert not (tmp_path / "calls").exists()
