"""Ranks and counts as torchrun, srun and Lightning tell them."""

import multiprocessing
import os

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from swinmim import distributed

TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
TORCHRUN |= {"LOCAL_WORLD_SIZE": "4", "GROUP_WORLD_SIZE": "2"}
SRUN = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1", "SLURM_NNODES": "2"}
SRUN |= {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}


@pytest.fixture
def env(monkeypatch):
    for name in [*TORCHRUN, *SRUN]:
        monkeypatch.delenv(name, raising=False)

    def write(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return write


@pytest.mark.parametrize(("kind", "values"), [("torchrun", TORCHRUN), ("srun", SRUN)])
def test_launchers_are_read(env, kind, values):
    env(values)
    assert distributed.launch() == distributed.Launch(kind, 5, 8, 1, 2, 4)
    assert (distributed.rank(), distributed.world_size(), distributed.local_rank()) == (5, 8, 1)
    assert not distributed.is_main()


def test_torchrun_inside_a_slurm_job_is_torchrun(env):
    env({**SRUN, **TORCHRUN, "RANK": "0", "LOCAL_RANK": "0"})
    launched = distributed.launch()
    assert launched is not None
    assert launched.kind == "torchrun"
    assert distributed.is_main()


@pytest.mark.parametrize(
    "change",
    [
        {"SLURM_NTASKS": "1"},  # srun --pty bash
        {"SLURM_STEP_ID": "4294967291"},  # the batch script
        {"SLURM_STEP_ID": "4294967290"},  # the shell of salloc
    ],
)
def test_shells_of_slurm_are_no_launch(env, change):
    env({**SRUN, **change, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"})
    assert distributed.launch() is None
    assert distributed.is_main()


@pytest.mark.parametrize(
    "values",
    [
        {**TORCHRUN, "LOCAL_WORLD_SIZE": "5"},
        {**SRUN, "SLURM_STEP_TASKS_PER_NODE": "5,3"},
        {**SRUN, "SLURM_NTASKS": "7"},
    ],
)
def test_unequal_nodes_have_no_number_per_node(env, values):
    env(values)
    launched = distributed.launch()
    assert launched is not None
    assert launched.per_node == 0


def test_children_of_lightning_are_not_the_main_process(env):
    env({"LOCAL_RANK": "1", "WORLD_SIZE": "2"})
    assert distributed.launch() is None
    assert (distributed.rank(), distributed.is_main()) == (1, False)


def _ask(port, value, answers):
    os.environ |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    answers.put(distributed.agree("start", value))


@pytest.mark.slow
def test_processes_agree_on_the_first_answer():
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    children = [spawn.Process(target=_ask, args=(store.port, value, answers)) for value in ("a", "b")]
    for child in children:
        child.start()
    said = {answers.get(timeout=120) for _ in children}
    for child in children:
        child.join()
    assert len(said) == 1
    assert said <= {"a", "b"}


def test_without_a_store_the_id_of_the_run_is_the_answer(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "my_run")
    assert distributed.agree("start", "a") == "my_run"
