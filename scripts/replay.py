"""Run the step that ended a run again, on one device: python scripts/replay.py OUTPUT/replay/step_* [--device cuda]

Prints, for each micro-batch in the bundle, its loss, its gradient norm, the module that gave the first non-finite
value, and the samples that give one alone.
"""

import argparse
import sys
from pathlib import Path

import torch

import finetune.run
import pretrain.run
from swinmim.errors import UserError
from swinmim.training.replay import load_weights, read_info, read_micro_batches, replay

REBUILD = {"pretrain": pretrain.run.rebuild, "finetune": finetune.run.rebuild}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the bundle")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    arguments = parser.parse_args()
    try:
        info = read_info(arguments.folder)
        module = REBUILD[info.label](info)
        load_weights(arguments.folder, module)
        print(f"step {info.step}, {info.precision}, weights from before it; checkpoint {info.checkpoint}")
        for name, micro_batch, samples in read_micro_batches(arguments.folder):
            finding = replay(module, micro_batch, device=arguments.device, precision=info.precision)
            print(f"{name}: {finding}")
            for row in finding.rows:
                print(f"  not finite alone: row {row}{', ' + samples[row] if samples else ''}")
    except UserError as error:
        sys.exit(f"replay: {error}")


if __name__ == "__main__":
    main()
