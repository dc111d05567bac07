"""The whole road on handwritten digits: shards, pretraining at 32 px, fine-tuning at 64 px, scratch baseline, export.

python scripts/demo.py [--output runs/demo]. Every step is one of the project's own commands; each is printed first.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from swinmim.errors import one_line_at_interrupt
from swinmim.tables import table

SEEDS = (0, 1, 2)
"""Of labels and training; one run alone says little on so few images."""
SCRATCH_LR = 8.0e-2
"""optim.base_lr from scratch, the best of those in docs/log.md; the recipe's own is that of the pretrained arm."""


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

    pretrained, exported = output / "pretrain", output / "timm"
    watch = ("logger=wandb", "logger.wandb.mode=offline")
    call("-m", "pretrain", f"output_dir={pretrained}", *watch)
    finetuned = [output / "finetune" / f"seed_{seed}" for seed in SEEDS]
    scratch = [output / "scratch" / f"seed_{seed}" for seed in SEEDS]
    from_scratch = ("ckpt=null", "model=swinv2_demo", f"optim.base_lr={SCRATCH_LR}", "logger=none")
    for number, seed in enumerate(SEEDS):
        recipe = ("-m", "finetune", "experiment=demo_ft", f"seed={seed}")
        call(*recipe, f"ckpt={pretrained}", f"output_dir={finetuned[number]}", *watch)
        call(*recipe, *from_scratch, f"output_dir={scratch[number]}")
    call("scripts/export.py", str(finetuned[0]), str(exported))

    metrics = json.loads((pretrained / "metrics.json").read_text())
    print(
        f"\n{table(_rows([top1(run) for run in finetuned], [top1(run) for run in scratch]))}\n\n"
        f"held-out masked L1: model {metrics['val/recon_loss']:.3f}, blur {metrics['val/blur_baseline']:.3f}, "
        f"mean colour {metrics['val/mean_baseline']:.3f}\n"
        f"Smoke-sized: 100 labelled and 359 test digits; runs of one arm lie up to ten points apart.\n\n"
        f"pictures   {max((pretrained / 'reconstructions').glob('*.png'))}\n"
        f"encoder    {pretrained / 'encoder'}\n"
        f"task model {exported}  (timm.create_model('local-dir:{exported}', pretrained=True))\n"
        f"took       {time.monotonic() - started:.0f} s\n\n"
        f"Next, on your own images:\n  python -m pretrain data.path=DIR\n"
        f"  python -m pretrain experiment=swinv2_b_mim data.path=DIR"
    )
    return 0


def _rows(pretrained: list[float], scratch: list[float]) -> list[list[str]]:
    def row(arm: str, found: list[float]) -> list[str]:
        return [arm, f"{statistics.mean(found):.1f}", f"{min(found):.1f} to {max(found):.1f}"]

    return [
        ["digits, 64 px, 10 labels a class", "top-1 %", f"{len(SEEDS)} seeds"],
        row("SimMIM at 32 px, then fine-tuned", pretrained),
        row("from scratch, same budget", scratch),
    ]


if __name__ == "__main__":
    with one_line_at_interrupt("demo"):
        sys.exit(main())
