"""Real `python -m pretrain` processes at the price of a fork: a server imports once, its children can be killed."""

import ctypes
import multiprocessing
import os
import re
import runpy
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["pretrain.run", "swinmim.door", "processes"])


class Run:
    """Processes of one run, started with their output going to `log`.

    Args:
        arguments: of the command line.
        log: file for stdout and stderr.
        ranks: processes; more than one get the variables that torchrun would set.
        environment: further variables.
        unprivileged: give up what makes root read and write everything.
        samples: file prefix; each rank appends one line per micro-batch: optimizer step, indices of the samples.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        ranks: int = 1,
        environment: Mapping[str, str] | None = None,
        unprivileged: bool = False,
        samples: Path | None = None,
    ) -> None:
        self.log = log
        variables = {"SWINMIM_STARTED": "2026-01-01_00-00-00", **(environment or {})}
        if ranks > 1:
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(ranks)}
            variables |= {"LOCAL_WORLD_SIZE": str(ranks), "NODE_RANK": "0"}
            arguments = [*arguments, "strategy=ddp", f"trainer.devices={ranks}"]
        self.processes = []
        for rank in range(ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {}
            process = _CONTEXT.Process(
                target=_pretrain, args=(list(arguments), log, variables | own, unprivileged, samples)
            )
            process.start()
            self.processes.append(process)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL, at once."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.join()

    @property
    def alive(self) -> bool:
        return any(process.is_alive() for process in self.processes)

    def wait(self, timeout: float = 120) -> int:
        """The largest exit code."""
        for process in self.processes:
            process.join(timeout)
        assert not self.alive, f"no end after {timeout} s:\n{self.text()[-3000:]}"
        return max(abs(process.exitcode or 0) for process in self.processes)

    def text(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def succeed(self, timeout: float = 120) -> None:
        assert self.wait(timeout) == 0, self.text()[-3000:]


def _pretrain(
    arguments: list[str], log: Path, variables: Mapping[str, str], unprivileged: bool, samples: Path | None
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(variables)
    if unprivileged:
        _drop_capabilities()
    if samples is not None:
        _record(samples)
    sys.argv = ["pretrain", *arguments]
    try:
        runpy.run_module("pretrain", run_name="__main__")
    finally:
        sys.stdout.flush()


def _drop_capabilities() -> None:
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def _record(samples: Path) -> None:
    from pretrain.module import PretrainModule

    step = PretrainModule.training_step

    def recorded(self, batch, batch_idx):
        with open(f"{samples}.{self.global_rank}", "a") as file:
            print(self.global_step, *batch["index"].tolist(), file=file)
        return step(self, batch, batch_idx)

    PretrainModule.training_step = recorded


def seen(samples: Path) -> dict[int, list[int]]:
    """Optimizer step -> indices of its samples over all ranks."""
    steps: dict[int, list[int]] = {}
    for path in sorted(samples.parent.glob(f"{samples.name}.*")):
        for line in path.read_text().splitlines():
            step, *indices = map(int, line.split())
            steps.setdefault(step, []).extend(indices)
    return steps


def step_of(folder: Path) -> int:
    return int(re.search(r"step_(\d+)", folder.name)[1])


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
