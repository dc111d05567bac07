"""Runs one after the other on the same few processes, which import once; DeepSpeed among them, on CPUs."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).parent / "zero_worker.py"


def run_ranks(jobs: list[list[str]], world_size: int, folder: Path) -> None:
    """Run the jobs one after the other on so many processes."""
    folder.mkdir(exist_ok=True)
    (folder / "jobs.json").write_text(json.dumps(jobs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": world_size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    common |= {"LOCAL_WORLD_SIZE": world_size, "GROUP_RANK": 0, "OMP_NUM_THREADS": 1, "SWINMIM_STARTED": "test"}
    processes = []
    for rank in range(world_size):
        env = os.environ | {name: str(value) for name, value in (common | {"RANK": rank, "LOCAL_RANK": rank}).items()}
        with (folder / f"rank_{rank}.log").open("w") as log:
            command = [sys.executable, str(WORKER), str(folder / "jobs.json")]
            processes.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT))
    codes = [process.wait(timeout=500) for process in processes]
    assert not any(codes), (folder / "rank_0.log").read_text()[-3000:]
