"""The processes of a run against its settings: torchrun and srun start them, or Lightning does on one machine."""

import os

import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from swinmim.distributed import launch
from swinmim.errors import ConfigError


def check_launch(devices: int, nodes: int, explicit: bool) -> None:
    """Refuse settings that are not what the launcher started.

    devices: per node. explicit: they were set, not taken from the launcher.

    Raises ConfigError: with the number to change.
    """
    launched = launch()
    if launched is None:
        reserved = int(os.environ.get("SLURM_NTASKS", "1"))
        if nodes > 1:
            raise ConfigError(
                f"trainer.num_nodes={nodes} needs a launcher on every node, and neither torchrun nor srun started this "
                "process. See scripts/launch_torchrun.sh and scripts/slurm.sbatch."
            )
        if reserved > 1 and not explicit and "LOCAL_RANK" not in os.environ:
            raise ConfigError(
                f"SLURM reserved {reserved} tasks, but srun did not start this process, so it would run alone. "
                "Put srun before the command (scripts/slurm.sbatch), or set trainer.devices to what it should use."
            )
        return
    has = f"{launched.kind} started {launched.world_size} processes on {launched.nodes} node(s)"
    if launched.per_node == 0:
        raise ConfigError(f"{has}, not the same number on each. Start one process per device on equal nodes.")
    if (devices, nodes) != (launched.per_node, launched.nodes):
        raise ConfigError(
            f"{has}, but trainer.devices={devices} and trainer.num_nodes={nodes} ask for {devices * nodes}. "
            "Leave both null to follow the launcher, or start that many."
        )


def check_visible(accelerator: str, devices: int) -> None:
    """Every process finds its device by its local rank.

    Raises ConfigError: no GPU where one is asked for, or fewer visible than processes of this node use.
    """
    if accelerator == "gpu" and not torch.cuda.is_available() and not torch.backends.mps.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs only"
        raise ConfigError(
            f"trainer.accelerator=gpu asks for a GPU, and torch (built {built}) sees none. Look at nvidia-smi and "
            "CUDA_VISIBLE_DEVICES, or add trainer.accelerator=cpu."
        )
    if accelerator == "cpu" or not torch.cuda.is_available():
        return
    visible = torch.cuda.device_count()
    if devices > visible:
        hint = " With srun, give GPUs per node, not per task (--gpus-per-node)." if launch() else ""
        raise ConfigError(f"{devices} devices of this node are asked for and {visible} GPU(s) are visible.{hint}")


def cluster_environment() -> ClusterEnvironment:
    """What tells Lightning its ranks. Named, since by itself it takes an srun in an interactive job for none."""
    launched = launch()
    if launched is None:
        return LightningEnvironment()
    return TorchElasticEnvironment() if launched.kind == "torchrun" else SLURMEnvironment(auto_requeue=False)
