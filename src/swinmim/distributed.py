"""Who am I among the processes of this run? Read from the environment that torchrun, srun and Lightning set."""

import os
from dataclasses import dataclass
from typing import Literal

_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # SLURM numbers batch scripts and interactive shells from here


@dataclass(frozen=True)
class Launch:
    """The processes that an external launcher started for this run, and this one's place among them."""

    kind: Literal["torchrun", "srun"]
    rank: int
    world_size: int
    local_rank: int
    nodes: int
    per_node: int
    """Processes on each node; 0 where the nodes do not have the same number."""


def launch() -> Launch | None:
    """What torchrun or srun started; None for a process started by hand, which may itself start others.

    A single task of srun counts as started by hand: it may be a shell in which someone works.
    """
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        world, per_node = int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
        nodes = int(env.get("GROUP_WORLD_SIZE", world // per_node))
        even = nodes * per_node == world
        return Launch("torchrun", int(env["RANK"]), world, int(env["LOCAL_RANK"]), nodes, per_node if even else 0)
    step, world = int(env.get("SLURM_STEP_ID", _FIRST_SPECIAL_STEP)), int(env.get("SLURM_NTASKS", "1"))
    if step < _FIRST_SPECIAL_STEP and world > 1:
        nodes = int(env.get("SLURM_NNODES", "1"))
        even = world % nodes == 0 and "," not in env.get("SLURM_STEP_TASKS_PER_NODE", "")  # "4(x2),1"
        return Launch(
            "srun", int(env["SLURM_PROCID"]), world, int(env["SLURM_LOCALID"]), nodes, world // nodes if even else 0
        )
    return None


def rank() -> int:
    """Index of this process among all processes; 0 when run alone."""
    if launched := launch():
        return launched.rank
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")))  # Lightning's own children know no RANK


def world_size() -> int:
    """Number of processes of the run; 1 when run alone."""
    launched = launch()
    return launched.world_size if launched else int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Index of this process on its machine; 0 when run alone."""
    launched = launch()
    return launched.local_rank if launched else int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """True in the one process that prints and writes."""
    return rank() == 0 and local_rank() == 0


def agree(name: str, value: str) -> str:
    """The value that the first process of a torchrun to ask gave under this name; the same for all of them.

    Without the agent's store (TORCH_DISABLE_SHARE_RDZV_TCP_STORE) it is torchrun's --rdzv_id.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return os.environ["TORCHELASTIC_RUN_ID"]
    # imported here: it takes seconds, and only several processes need it
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, wait_for_workers=False)
    return bytes(store.compare_set(name, "", value)).decode()
