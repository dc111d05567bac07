"""Whole pretraining runs in real processes, forked from a server that has imported everything, with faults inside."""

import csv
import dataclasses
import faulthandler
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import load_file
from torch import Tensor

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pretrain.__main__", "pretrain.module", "finetune.run", "swinmim.training.fit"])

SMALL = (
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "trainer.log_every_steps=1",
    "trainer.val_every_epochs=2",
    "data.num_workers=0",
    "model.embed_dim=16",
    "model.head_dim=8",
    "global_batch_size=16",
    "drop_path=0.1",
    "schedule.warmup_epochs=0.4",
    "callbacks.reconstructions.every_epochs=2",
    "callbacks.reconstructions.num_images=2",
)
"""Eight steps of two epochs, on the 96 images of `made_images`."""


@dataclasses.dataclass(frozen=True)
class Fault:
    """What happens on one rank in the forward pass of some micro-batches, counted from 1.

    multiply: the loss, by nan, inf, or a number. signal: to itself, or (group) to itself and its loaders. sleep: for
    ever. pause: a second. raise: a RuntimeError. raise_in_validation: another. kill_loader: SIGKILL to a loader.
    save_signal: to itself, while it saves.
    """

    kind: Literal["multiply", "signal", "sleep", "pause", "raise", "raise_in_validation", "kill_loader", "save_signal"]
    calls: tuple[int, ...] = ()
    rank: int = 0
    signals: tuple[int, ...] = ()
    factor: float = 1.0
    group: bool = False

    def install(self, rank: int) -> None:
        from pretrain.module import PretrainModule

        if rank != self.rank:
            return
        if self.kind == "save_signal":
            saving = PretrainModule.save_encoder_folder

            def save_encoder_folder(*arguments: Any) -> None:
                self._send()
                saving(*arguments)

            PretrainModule.save_encoder_folder = save_encoder_folder  # type: ignore[method-assign]
            return
        if self.kind == "raise_in_validation":

            def validation_step(module: Any, batch: Any, number: int) -> None:
                raise RuntimeError("a fault in validation")

            PretrainModule.validation_step = validation_step  # type: ignore[method-assign]
            return
        original, count = PretrainModule.training_loss, 0

        def training_loss(module: Any, batch: Any) -> Any:
            nonlocal count
            count += 1
            loss = original(module, batch)
            return self._act(loss) if count in self.calls else loss

        PretrainModule.training_loss = training_loss  # type: ignore[method-assign]

    def _send(self) -> None:
        for number in self.signals:
            if self.group:
                # by another process, as a scheduler does: a loader obeys its own parent
                subprocess.run(["setsid", "kill", f"-{number}", "--", f"-{os.getpgid(0)}"], check=True)
            else:
                os.kill(os.getpid(), number)

    def _act(self, loss: Any) -> Any:
        match self.kind:
            case "multiply":
                return loss * self.factor
            case "signal":
                self._send()
            case "sleep":
                time.sleep(10_000)
            case "pause":
                time.sleep(1)
            case "raise":
                raise RuntimeError("a fault of the program")
            case "kill_loader":
                os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
        return loss


def _body(arguments: Sequence[str], environment: dict[str, str], log: Path, faults: Sequence[Fault]) -> None:
    os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # of the loaders, as in a run from the command line
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    os.environ |= environment
    if any(argument.startswith("strategy=deepspeed") for argument in arguments):
        import zero_worker

        zero_worker.use_cpu()
    for fault in faults:
        fault.install(int(environment.get("RANK", "0")))
    sys.argv = ["pretrain", *arguments]
    from pretrain.__main__ import main

    main()


class Run:
    """One run, of one or several processes, in its output directory."""

    def __init__(
        self,
        output_dir: Path,
        *overrides: str,
        world: int = 1,
        faults: Sequence[Fault] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.output_dir, self.world = output_dir, world
        self.logs = [output_dir.parent / f"{output_dir.name}.{time.monotonic_ns()}.{rank}.log" for rank in range(world)]
        arguments = [*SMALL, f"output_dir={output_dir}", f"batch_size={16 // world}"]
        if world > 1:
            arguments += [f"trainer.devices={world}"]
            arguments += [] if any(text.startswith("strategy=") for text in overrides) else ["strategy=ddp"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.processes = []
        for rank, log in enumerate(self.logs):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
            torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", **place}
            variables = {"SWINMIM_STARTED": "2026-01-01_00-00-00", **(environment or {})}
            if world > 1:
                variables |= {name: str(value) for name, value in torchrun.items()}
            process = SERVER.Process(target=_body, args=([*arguments, *overrides], variables, log, list(faults)))
            process.start()
            self.processes.append(process)

    def wait(self, timeout: float = 120) -> list[int | None]:
        """Exit codes of all ranks; those that have not ended are killed, None."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.kill()
        return codes

    def kill(self) -> None:
        for process in self.processes:
            if process.is_alive():
                os.killpg(process.pid, signal.SIGKILL)
                process.join()

    def text(self, rank: int = 0) -> str:
        return self.logs[rank].read_text()

    def reached(self, step: int, timeout: float = 60) -> None:
        """Wait until rank 0 has logged a step."""
        deadline = time.monotonic() + timeout
        while len(losses(self.output_dir)) < step:
            assert time.monotonic() < deadline, self.text()
            assert self.processes[0].is_alive(), self.text()
            time.sleep(0.05)


def column(output_dir: Path, name: str, part: int | None = None) -> list[float]:
    """A metric in the order it was logged, over all parts of a resumed run, or of one."""
    values = []
    paths = sorted(output_dir.glob("metrics/version_*/metrics.csv"))
    for path in paths if part is None else [paths[part]]:
        with path.open() as file:
            values += [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
    return values


def last_losses(output_dir: Path) -> list[float]:
    """Of the last part of a resumed run."""
    return column(output_dir, "train/loss", part=-1)


def losses(output_dir: Path) -> list[float]:
    return column(output_dir, "train/loss")


def weights(output_dir: Path) -> dict[str, Tensor]:
    """Those of the encoder folder."""
    return load_file(output_dir / "encoder" / "model.safetensors")
