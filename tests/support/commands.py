"""Whole runs as a user starts them: by command, in their own processes, small enough for a CPU."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[2]
TINY = (
    "data.num_workers=0",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=1",
    "trainer.max_steps=2",
    "trainer.log_every_steps=1",
    "model.embed_dim=16",
    "model.head_dim=8",
    "global_batch_size=8",
    "batch_size=4",
    "schedule.warmup_epochs=0",
    "callbacks.reconstructions.num_images=1",
)


def tiny_images(root: Path, count: int = 32) -> Path:
    """A folder of random pictures."""
    rng = np.random.default_rng(0)
    root.mkdir(parents=True)
    for index in range(count):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / f"{index:03d}.png")
    return root


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
