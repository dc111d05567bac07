"""The two launch scripts start real processes that share one output directory; two hosts find each other."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, call, environment
from made_images import make_slopes
from runs import TINY

SCRIPTS = ROOT / "scripts"
pytestmark = [pytest.mark.slow, pytest.mark.reliability]

FAKE_SRUN = """#!/usr/bin/env bash
# two tasks on one node, with the variables that SLURM gives them
shift  # --kill-on-bad-exit=1
for rank in 0 1; do
  SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_NODEID=0 SLURM_STEP_ID=0 "$@" & tasks+=($!)
done
status=0
for task in "${tasks[@]}"; do wait "$task" || status=$?; done
exit $status
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    images = make_slopes(tmp_path_factory.mktemp("set"), 32)
    return [*TINY, f"data.path={images}", f"data.cache_dir={tmp_path_factory.mktemp('cache')}", "strategy=ddp"]


def assert_one_run(run: Path, steps: int = 2) -> None:
    """Everything is there once, as one process would have left it."""
    assert (run / ".hydra" / "overrides.yaml").is_file()
    assert [path.name for path in run.glob("*.log")] == ["pretrain.log"]
    assert (run / "pretrain.log").read_text().count("total_steps") == 1
    assert [path.name for path in (run / "metrics").iterdir()] == ["version_0"]
    with (run / "metrics" / "version_0" / "metrics.csv").open() as file:
        assert len([row for row in csv.DictReader(file) if row["train/loss"]]) == steps
    assert json.loads((run / "metrics.json").read_text())["samples_seen"] == 8 * steps
    assert (run / "encoder" / "model.safetensors").is_file()


def test_torchrun_script_makes_one_run_of_two_processes(tmp_path, tiny):
    result = call([SCRIPTS / "launch_torchrun.sh", *tiny], tmp_path, environment(PER_NODE="2"))
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("total_steps") == 1  # one process talks
    (run,) = (tmp_path / "runs" / "pretrain").iterdir()
    assert_one_run(run)


def test_torchrun_ranks_share_a_wandb_run(tmp_path, tiny):
    env = environment(PER_NODE="2", WANDB_MODE="offline")
    result = call([SCRIPTS / "launch_torchrun.sh", *tiny, "logger=wandb", "output_dir=run"], tmp_path, env)
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 1


def test_settings_that_are_not_the_launchers_stop_it_with_the_fix(tmp_path, tiny):
    env = environment(PER_NODE="2")
    result = call([SCRIPTS / "launch_torchrun.sh", *tiny, "trainer.devices=3", "output_dir=run"], tmp_path, env)
    assert result.returncode != 0
    assert "torchrun started 2 processes on 1 node(s), but trainer.devices=3 and trainer.num_nodes=1" in result.stderr
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_sweep_under_a_launcher_is_refused_before_it_starts(tmp_path, tiny):
    result = call([SCRIPTS / "launch_torchrun.sh", *tiny, "-m", "seed=1,2"], tmp_path, environment(PER_NODE="2"))
    assert result.returncode != 0
    assert result.stderr.count("a sweep (-m) works with one process only") == 1
    assert "exitcode  : 2" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_sweep_of_a_run_that_starts_processes_is_refused(tmp_path, tiny):
    arguments = [sys.executable, "-m", "pretrain", *tiny, "trainer.devices=2", "-m", "seed=1,2", "output_dir=sweep"]
    result = call(arguments, tmp_path)
    assert result.returncode == 2
    assert "Start one run for each value" in result.stderr
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_sweep_of_one_process_runs_each_value(tmp_path, tiny):
    arguments = [sys.executable, "-m", "pretrain", *tiny, "strategy=single", "-m", "seed=1,2", "output_dir=sweep"]
    result = call(arguments, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert sorted(path.parent.name for path in tmp_path.glob("sweep/*/metrics.json")) == ["0", "1"]


def test_slurm_script_continues_in_the_directory_of_its_job(tmp_path, tiny):
    """The second call is the job after it was requeued, having lost its last step: same id, same directory."""
    (tmp_path / "bin").mkdir()
    srun = tmp_path / "bin" / "srun"
    srun.write_text(FAKE_SRUN)
    srun.chmod(0o755)
    env = environment(SLURM_JOB_ID="4711", SLURM_JOB_NAME="interactive", SLURM_NTASKS="2", SLURM_NNODES="1")
    env |= {"SLURM_NODELIST": "127.0.0.1", "SLURM_NTASKS_PER_NODE": "2", "PATH": f"{srun.parent}:{env['PATH']}"}
    run = tmp_path / "runs" / "pretrain" / "slurm_4711"
    for start in ("step 0", "step_00000001"):
        result = call(["bash", SCRIPTS / "slurm.sbatch", *tiny, "callbacks.checkpoint.every_steps=1"], tmp_path, env)
        assert result.returncode == 0, result.stderr[-3000:]
        assert start in next(line for line in result.stdout.splitlines() if line.split()[:1] == ["start"])
        shutil.rmtree(run / "checkpoints" / "step_00000002")
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    assert [path.name for path in run.glob("*.log")] == ["pretrain.log"]
    assert sorted(path.name for path in (run / "metrics").iterdir()) == ["version_0", "version_1"]


def test_batch_script_without_srun_is_told_so(tmp_path, tiny):
    env = environment(SLURM_JOB_ID="1", SLURM_NTASKS="2", SLURM_PROCID="0", SLURM_NNODES="1")
    result = call([sys.executable, "-m", "pretrain", *tiny], tmp_path, env)
    assert result.returncode == 2
    assert "Put srun before the command" in result.stderr


@pytest.fixture
def two_hosts():
    """Two network namespaces joined by a cable; yields (name, interface, address) of each."""
    tag = f"{os.getpid() % 10_000}"
    names, cable = [f"sw{tag}a", f"sw{tag}b"], [f"ve{tag}a", f"ve{tag}b"]
    hosts = [(names[0], cable[0], "10.231.7.1"), (names[1], cable[1], "10.231.7.2")]
    if shutil.which("ip") is None:
        pytest.skip("no iproute2 on this machine")
    try:
        steps = [["netns", "add", name] for name in names]
        steps += [["link", "add", cable[0], "type", "veth", "peer", "name", cable[1]]]
        for name, interface, address in hosts:
            steps += [
                ["link", "set", interface, "netns", name],
                ["-n", name, "addr", "add", f"{address}/24", "dev", interface],
                ["-n", name, "link", "set", interface, "up"],
                ["-n", name, "link", "set", "lo", "up"],
            ]
        for step in steps:
            made = subprocess.run(["ip", *step], capture_output=True, text=True, check=False)
            if made.returncode:
                pytest.skip(f"network namespaces are not allowed here: ip {' '.join(step)}: {made.stderr.strip()}")
        yield hosts
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def test_two_hosts_meet_by_rendezvous_and_train_as_one(tmp_path, tiny, two_hosts):
    processes = []
    try:
        for name, interface, address in two_hosts:
            env = environment(PER_NODE="1", NNODES="2", HEAD=f"{two_hosts[0][2]}:29511", ADDR=address, RUN_ID="pair")
            env |= {"GLOO_SOCKET_IFNAME": interface}
            command = ["ip", "netns", "exec", name, SCRIPTS / "launch_torchrun.sh", *tiny]
            one = subprocess.Popen(
                command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            processes.append(one)
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(output[-3000:] for output in outputs)
    (run,) = (tmp_path / "runs" / "pretrain").iterdir()
    assert_one_run(run)
    assert sum("total_steps" in output for output in outputs) == 1
