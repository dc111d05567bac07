"""Training time that a checkpoint costs, against writing its bytes and nothing else to the same disk.

    python benchmarks/bench_checkpoint.py [--folder DIR] [--model swinv2_t] [--repeats 9] [--out benchmarks/results]

`save` is the pause of training: settings, encoder folder, trainer state (weights, AdamW moments) handed to the system;
flush, SHA-256, marker, rename and pruning go on in a thread. `complete` is the time until the checkpoint has its name.
`plain` writes the same files from memory, each with one write and one fsync. They alternate in random order within one
run; the medians of the pairs' ratios count. `lightning` is Lightning 2.6's own `trainer.save_checkpoint` of the trainer
state alone: no encoder, no hash, no fsync.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch.utils.data import DataLoader

from swinmim.checkpoint import io
from swinmim.checkpoint.encoder import save_encoder
from swinmim.models.architecture import get_architecture
from swinmim.models.swinv2 import SwinV2
from swinmim.training.callbacks.checkpoint import CheckpointConfig, Checkpoints
from swinmim.training.state_io import StateIO


class Module(L.LightningModule):
    """An encoder whose every parameter has a gradient and moments, at no cost."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.encoder = SwinV2(get_architecture(model), resolution=192)

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        return sum(parameter.sum() for parameter in self.encoder.parameters()) * 1e-6

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())

    def save_encoder_folder(self, folder: Path) -> None:
        save_encoder(self.encoder, folder)


class Measure(L.Callback):
    """Alternates the methods at every step after the first."""

    def __init__(self, folder: Path, checkpoints: Checkpoints) -> None:
        self.folder, self.checkpoints = folder, checkpoints
        self.seconds: dict[str, list[float]] = {"save": [], "complete": [], "plain": [], "lightning": []}
        self.files: list[bytes] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        if not self.files:  # warms up, and leaves a checkpoint for the next save to remove
            self.checkpoints.save(trainer, pl_module)
            newest = self.folder / "checkpoints" / "last"
            self.files = [path.read_bytes() for path in io.files(newest.resolve())]
            return
        methods: dict[str, Callable[[], None]] = {
            "save": lambda: self.checkpoints.save(trainer, pl_module, wait=False),
            "plain": self.plain,
            "lightning": lambda: self.lightning(trainer),
        }
        for name in random.sample(list(methods), len(methods)):
            os.sync()
            begin = time.perf_counter()
            methods[name]()
            self.seconds[name].append(time.perf_counter() - begin)
            if name == "save":
                self.checkpoints.wait(trainer)
                self.seconds["complete"].append(time.perf_counter() - begin)
            for leftover in self.folder.glob("scratch*"):
                shutil.rmtree(leftover)

    def plain(self) -> None:
        scratch = self.folder / "scratch"
        scratch.mkdir()
        for number, content in enumerate(self.files):
            with open(scratch / str(number), "wb", buffering=0) as file:
                file.write(content)
                os.fsync(file.fileno())

    def lightning(self, trainer: L.Trainer) -> None:
        ours = trainer.strategy.checkpoint_io
        trainer.strategy.checkpoint_io = TorchCheckpointIO()
        trainer.save_checkpoint(self.folder / "scratch_lightning" / "state.ckpt")
        trainer.strategy.checkpoint_io = ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="directory on the disk to measure")
    parser.add_argument("--model", default="swinv2_t")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        measure = Measure(
            folder, Checkpoints(folder, CheckpointConfig(keep_last=1), ("val/loss", "min"), {"model": options.model})
        )
        trainer = L.Trainer(
            accelerator="cpu",
            max_steps=options.repeats + 1,
            callbacks=[measure],
            plugins=[StateIO()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(options.model), DataLoader(torch.zeros(options.repeats + 1)))
    ratios = {
        name: [a / b for a, b in zip(measure.seconds[name], measure.seconds["plain"], strict=True)]
        for name in ("save", "complete")
    }
    written = sum(map(len, measure.files))
    result = {
        "date": date.today().isoformat(),
        "ratio_to_plain": {name: round(statistics.median(values), 3) for name, values in ratios.items()},
        "quartiles": {name: [round(value, 3) for value in statistics.quantiles(ratios[name], n=4)] for name in ratios},
        "bytes": written,
        "plain_mb_per_s": round(written / 1e6 / statistics.median(measure.seconds["plain"])),
        "median_seconds": {name: round(statistics.median(times), 3) for name, times in measure.seconds.items()},
        "seconds": {name: [round(value, 3) for value in times] for name, times in measure.seconds.items()},
        "config": {"model": options.model, "repeats": options.repeats},
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "versions": {name: version(name) for name in ("torch", "lightning", "safetensors")},
    }
    print(json.dumps(result, indent=1))
    if options.out:
        (options.out / f"checkpoint_{result['date']}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
