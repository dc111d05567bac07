"""Who am I among the processes of this run? Read from the environment that torchrun and Lightning's launchers set."""

import os


def rank() -> int:
    """Index of this process among all processes; 0 when run alone."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes of the run; 1 when run alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Index of this process on its machine; 0 when run alone."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def is_main() -> bool:
    """True in the one process that prints and writes."""
    return rank() == 0 and local_rank() == 0
