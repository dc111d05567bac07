"""Pretraining runs in real processes, at the price of a fork: a server imports once, its children can be killed."""

import csv
import ctypes
import dataclasses
import faulthandler
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

from safetensors.torch import load_file
from torch import Tensor

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pretrain.__main__", "pretrain.module", "finetune.run", "swinmim.training.fit", "runs"])

CPU = ("trainer.accelerator=cpu", "trainer.precision=32-true", "data.num_workers=0")
TINY = (
    *CPU,
    "trainer.max_epochs=1",
    "trainer.max_steps=2",
    "trainer.log_every_steps=1",
    "model.embed_dim=16",
    "model.head_dim=8",
    "global_batch_size=8",
    "batch_size=4",
    "schedule.warmup_epochs=0",
    "callbacks.reconstructions.num_images=1",
)
"""Two steps of the smallest model, for 32 pictures or more."""

TWO_EPOCHS = (*TINY, "trainer.max_epochs=2", "trainer.max_steps=-1", "trainer.val_every_epochs=2")
"""The same to the end of the second epoch, with one validation."""


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

            PretrainModule.save_encoder_folder = save_encoder_folder  # type: ignore[assignment, method-assign]
            return
        if self.kind == "raise_in_validation":

            def validation_step(module: Any, batch: Any, number: int) -> None:
                raise RuntimeError("a fault in validation")

            PretrainModule.validation_step = validation_step  # type: ignore[assignment, method-assign]
            return
        original, count = PretrainModule.training_loss, 0

        def training_loss(module: Any, batch: Any) -> Any:
            nonlocal count
            count += 1
            loss = original(module, batch)
            return self._act(loss) if count in self.calls else loss

        PretrainModule.training_loss = training_loss  # type: ignore[assignment, method-assign]

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
                multiprocessing.active_children()[0].kill()
        return loss


class Run:
    """One run, of one or several processes.

    Args:
        arguments: of the command line.
        output_dir: of the run; the logs are written beside it.
        world: processes; more than one get the variables that torchrun would set.
        faults: what goes wrong inside.
        environment: further variables.
        unprivileged: give up what makes root read and write everything.
        samples: file prefix; each rank appends one line per micro-batch: optimizer step, indices of the samples.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        output_dir: Path,
        *,
        world: int = 1,
        faults: Sequence[Fault] = (),
        environment: Mapping[str, str] | None = None,
        unprivileged: bool = False,
        samples: Path | None = None,
    ) -> None:
        self.output_dir = output_dir
        output_dir.parent.mkdir(parents=True, exist_ok=True)
        self.logs = [output_dir.parent / f"{output_dir.name}.{time.monotonic_ns()}.{rank}.log" for rank in range(world)]
        arguments = [*arguments, f"output_dir={output_dir}"]
        if world > 1:
            arguments += [f"trainer.devices={world}"]
            arguments += [] if any(text.startswith("strategy=") for text in arguments) else ["strategy=ddp"]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.processes = []
        for rank, log in enumerate(self.logs):
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": 0}
            torchrun = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", **place}
            variables = {"SWINMIM_STARTED": "2026-01-01_00-00-00", **(environment or {})}
            if world > 1:
                variables |= {name: str(value) for name, value in torchrun.items()}
            process = SERVER.Process(target=_pretrain, args=(arguments, log, variables, faults, unprivileged, samples))
            process.start()
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL to every rank at once, then to what they started."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()
            with suppress(ProcessLookupError):
                os.killpg(process.ident or 0, signal.SIGKILL)

    @property
    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def wait(self, timeout: float = 120) -> list[int | None]:
        """Exit codes of all ranks; those that have not ended are killed, None."""
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        self.kill()
        return codes

    def succeed(self, timeout: float = 120) -> None:
        codes = self.wait(timeout)
        assert codes == [0] * len(codes), "\n".join(self.text(rank)[-3000:] for rank in range(len(codes)))

    def text(self, rank: int = 0) -> str:
        return self.logs[rank].read_text() if self.logs[rank].exists() else ""

    def reached(self, step: int, timeout: float = 60) -> None:
        """Wait until rank 0 has logged a step."""
        deadline = time.monotonic() + timeout
        while len(losses(self.output_dir)) < step:
            assert time.monotonic() < deadline, self.text()
            assert self.processes[0].is_alive(), self.text()
            time.sleep(0.05)


def _pretrain(
    arguments: Sequence[str],
    log: Path,
    variables: Mapping[str, str],
    faults: Sequence[Fault],
    unprivileged: bool,
    samples: Path | None,
) -> None:
    os.setpgid(0, 0)
    multiprocessing.set_start_method("fork", force=True)  # of the loaders, as in a run from the command line
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    faulthandler.enable(sys.stderr)
    os.environ.update(variables)
    if unprivileged:
        _drop_capabilities()
    if any(argument.startswith("strategy=deepspeed") for argument in arguments):
        import zero_worker

        zero_worker.use_cpu()
    if samples is not None:
        _record(samples)
    for fault in faults:
        fault.install(int(variables.get("RANK", "0")))
    sys.argv = ["pretrain", *arguments]
    from pretrain.__main__ import main

    main()


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def _record(samples: Path) -> None:
    from pretrain.module import PretrainModule

    step = PretrainModule.training_step

    def recorded(module: Any, batch: Any, number: int) -> Any:
        with open(f"{samples}.{module.global_rank}", "a") as file:
            print(module.global_step, *batch["index"].tolist(), file=file)
        return step(module, batch, number)

    PretrainModule.training_step = recorded  # type: ignore[assignment, method-assign]


def seen(samples: Path) -> dict[int, list[int]]:
    """Optimizer step -> indices of its samples over all ranks."""
    steps: dict[int, list[int]] = {}
    for path in sorted(samples.parent.glob(f"{samples.name}.*")):
        for line in path.read_text().splitlines():
            step, *indices = map(int, line.split())
            steps.setdefault(step, []).extend(indices)
    return steps


def step_of(folder: Path) -> int:
    found = re.search(r"step_(\d+)", folder.name)
    assert found, folder
    return int(found[1])


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
