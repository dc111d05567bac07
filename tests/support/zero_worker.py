"""One rank of runs under DeepSpeed on a CPU: `zero_worker.py FILE`, FILE holds a JSON list of argument lists.

DeepSpeed and Lightning refuse CPUs as a rule; the subclass leaves out that refusal and nothing else. The first argument
of each list is the command (pretrain or finetune).
"""

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed
import deepspeed.ops
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DeepSpeedStrategy

import finetune.run
import pretrain.run
from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from swinmim.composition import check
from swinmim.errors import UserError
from swinmim.training import execute
from swinmim.training.strategies import build, zero

# its shared-memory kernel is compiled at first use, which needs a compiler and can take minutes
assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


class CPUZeroStrategy(zero.ZeroStrategy):
    def setup_environment(self) -> None:
        super(DeepSpeedStrategy, self).setup_environment()

    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(self, model: Any, optimizer: Any, lr_scheduler: Any = None) -> tuple[Any, Any]:
        engine, optimizer, _, _ = deepspeed.initialize(
            config=self.config,
            model=model,
            model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, optimizer


def use_cpu() -> None:
    """From now on runs of this process take DeepSpeed on CPUs."""
    vars(build)["ZeroStrategy"] = CPUZeroStrategy
    vars(execute)["check_world"] = lambda *_: None


def main(jobs: list[list[str]]) -> None:
    use_cpu()
    for command, *arguments in jobs:
        doors: dict[str, tuple[Any, Any]] = {
            "pretrain": (PretrainConfig, pretrain.run.run),
            "finetune": (FinetuneConfig, finetune.run.run),
        }
        schema, run = doors[command]
        config = check(command, schema, arguments)
        output_dir = Path(config.output_dir)
        output_dir.mkdir(parents=True, exist_ok=True)
        try:
            run(config, output_dir)
        except UserError as error:
            (output_dir / f"error_{os.environ['RANK']}.txt").write_text(str(error))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    main(json.loads(Path(sys.argv[1]).read_text()))
