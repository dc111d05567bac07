"""The whole road on handwritten digits: shards, pretraining at 32 px, fine-tuning at 64 px, scratch baseline, export.

python scripts/demo.py [--output runs/demo]. Every step is one of the project's own commands; each is printed first.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from swinmim.report import table

SCRATCH_LRS = (4.0e-2, 8.0e-2)
"""optim.base_lr of the two from-scratch arms; the table shows the better one."""


def call(*arguments: str) -> None:
    """Print a command, run it with this Python, and stop with its exit code if it fails."""
    print(f"\n$ python {shlex.join(arguments)}", flush=True)
    code = subprocess.run([sys.executable, *arguments], check=False).returncode
    if code:
        sys.exit(code)


def top1(run: Path) -> float:
    """Accuracy of a finished run's last epoch, in percent."""
    return 100 * float(json.loads((run / "metrics.json").read_text())["val/top1"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path("runs") / f"demo_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    parser.add_argument("--output", type=Path, default=default, help=f"directory to write (default: {default})")
    output: Path = parser.parse_args().output
    started = time.monotonic()

    pretrained, finetuned = output / "pretrain", output / "finetune"
    watch = ("logger=wandb", "logger.wandb.mode=offline")
    call("-m", "pretrain", f"output_dir={pretrained}", *watch)
    recipe = ("-m", "finetune", "experiment=demo_ft")
    call(*recipe, f"ckpt={pretrained}", f"output_dir={finetuned}", *watch)
    scratch = {}
    for lr in SCRATCH_LRS:
        scratch[lr] = output / f"scratch_lr_{lr:g}"
        call(
            *recipe, "ckpt=null", "model=swinv2_demo", f"optim.base_lr={lr}", f"output_dir={scratch[lr]}", "logger=none"
        )
    exported = output / "timm"
    call("scripts/export.py", str(finetuned), str(exported))

    best_lr = max(scratch, key=lambda lr: top1(scratch[lr]))
    metrics = json.loads((pretrained / "metrics.json").read_text())
    print(
        f"\n{table(_rows(top1(finetuned), top1(scratch[best_lr]), best_lr))}\n\n"
        f"held-out masked L1: model {metrics['val/recon_loss']:.3f}, blur {metrics['val/blur_baseline']:.3f}, "
        f"mean colour {metrics['val/mean_baseline']:.3f}\n"
        f"Smoke-sized: 359 test digits, so one run is within about 2.5 points of its true accuracy.\n\n"
        f"pictures   {max((pretrained / 'reconstructions').glob('*.png'))}\n"
        f"encoder    {pretrained / 'encoder'}\n"
        f"task model {exported}  (timm.create_model('local-dir:{exported}', pretrained=True))\n"
        f"took       {time.monotonic() - started:.0f} s\n\n"
        f"Next, on your own images:\n  python -m pretrain data.path=DIR\n"
        f"  python -m pretrain experiment=swinv2_b_mim data.path=DIR"
    )
    return 0


def _rows(pretrained: float, scratch: float, lr: float) -> list[list[str]]:
    return [
        ["digits, 64 px, 10 labels a class", "top-1 %"],
        ["SimMIM at 32 px, then fine-tuned", f"{pretrained:.1f}"],
        [f"from scratch, same budget (better of two rates: base_lr={lr:g})", f"{scratch:.1f}"],
    ]


if __name__ == "__main__":
    sys.exit(main())
