"""Turn a DeepSpeed checkpoint into an encoder folder, or make it resumable on another number of ranks. Needs no GPU.

python scripts/convert_zero.py runs/x/checkpoints/step_00010000 encoder
python scripts/convert_zero.py runs/x/checkpoints/step_00010000 --universal

Every checkpoint has its encoder folder beside the trainer state already; the first form is for one that was lost.
"""

import argparse
import os
import sys
from pathlib import Path

from swinmim.errors import UserError, one_line_at_interrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="run directory, or one of its checkpoints/step_*")
    parser.add_argument("folder", type=Path, nargs="?", help="encoder folder to write")
    parser.add_argument("--like", type=Path, help="encoder folder of the same run whose manifest describes the weights")
    parser.add_argument("--universal", action="store_true", help="write the universal form into the checkpoint")
    args = parser.parse_args()
    if args.universal == (args.folder is not None):
        parser.error("give either a folder to write or --universal")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from swinmim.checkpoint import zero
    from swinmim.checkpoint.io import STATE, find

    try:
        if not zero.is_installed():
            raise UserError("DeepSpeed's checkpoints are read with DeepSpeed: pip install 'swinmim[deepspeed]'.")
        step = find(args.checkpoint)
        if args.universal:
            print(zero.to_universal(step / STATE))
        else:
            print(zero.to_encoder_folder(step, args.folder, args.like))
    except UserError as error:
        print(f"convert_zero: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    with one_line_at_interrupt("convert_zero"):
        sys.exit(main())
