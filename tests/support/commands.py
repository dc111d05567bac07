"""Commands as a user types them, in their own processes."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(**changes: str) -> dict[str, str]:
    """The environment of a child: none of a launcher's variables, our Python first in the PATH."""
    launchers = ("SLURM_", "TORCHELASTIC_", "WANDB_", "MASTER_", "SWINMIM_")
    ranks = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(launchers) and name not in ranks}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"OMP_NUM_THREADS": "1", "PATH": path} | changes


def call(
    arguments: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is kept and its exit code not judged."""
    return subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        env=environment() if env is None else dict(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
