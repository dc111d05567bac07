"""Run the step that ended a run again, on one device: python scripts/replay.py OUTPUT/replay/step_* [--device cuda]

Prints, for each micro-batch in the bundle, its loss, its gradient norm, the module that gave the first non-finite
value, and the samples that give one alone.
"""

import argparse
import sys
from pathlib import Path

from swinmim.errors import UserError, one_line_at_interrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the bundle")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), default="cpu")
    arguments = parser.parse_args()
    import torch

    import finetune.run
    import pretrain.run
    from swinmim.training.replay import load_weights, read_info, read_micro_batches, replay

    rebuild = {"pretrain": pretrain.run.rebuild, "finetune": finetune.run.rebuild}
    try:
        info = read_info(arguments.folder)
        module = rebuild[info.label](info)
        load_weights(arguments.folder, module)
        print(f"step {info.step}, {info.precision}, weights from before it; checkpoint {info.checkpoint}")
        for name, micro_batch, samples in read_micro_batches(arguments.folder):
            finding = replay(module, micro_batch, device=torch.device(arguments.device), precision=info.precision)
            print(f"{name}: {finding}")
            for row in finding.rows:
                print(f"  not finite alone: row {row}{', ' + samples[row] if samples else ''}")
    except UserError as error:
        print(f"replay: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    with one_line_at_interrupt("replay"):
        sys.exit(main())
