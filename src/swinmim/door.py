"""The one door between the command line and the code: checks everything first, reports every problem at once."""

import importlib
import logging
import os
import shutil
import sys
import typing
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from swinmim.composition import check
from swinmim.config import CONF_DIR, SEPARATOR, load
from swinmim.distributed import agree, is_main, launch, local_rank, rank, world_size
from swinmim.errors import ConfigError, DataError, UserError, limit_of
from swinmim.outside import make_logs_printable
from swinmim.paths import literal_paths
from swinmim.security import close_environment, split_arguments, tighten_umask
from swinmim.training import run_lock

T = TypeVar("T")

STARTED = "SWINMIM_STARTED"
"""Environment variable with the default name of a run, so that all ranks agree on the default output directory."""


SWEEP = "multirun.yaml"
"""What Hydra writes into the directory of a sweep."""

NOT_FOR_USERS = (
    r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # Lightning 2.6.6 calling torch 2.15
    r".*does not have many workers",  # data.num_workers is the user's choice
    r".*smaller than the logging interval",
    r".*`IterableDataset` has `__len__` defined",  # streams divide themselves among loader processes
    r".*It is recommended to use `self\.log\(",  # every rank has the same number already
    r".*Total length of `list` across ranks is zero",  # streams hold nothing out
)
"""Warnings of libraries that a user of the two commands can do nothing about."""


def open_door(name: str, schema_type: type[T], run: Callable[[T, Path], object]) -> None:
    """Compose `conf/NAME.yaml` with the command line, check it, and call `run(config, output_dir)`.

    User mistakes end with one message on stderr and the error's exit code (2 for configuration), never a stack trace.
    """
    for message in NOT_FOR_USERS:
        warnings.filterwarnings("ignore", message)
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # a fault of the program keeps its whole stack trace
    make_logs_printable()
    tighten_umask()
    close_environment()
    sys.argv[1:] = literal_paths(sys.argv[1:])
    lock = ExitStack()
    made: Path | None = None
    try:
        if STARTED not in os.environ:
            os.environ[STARTED] = _run_name()
        flags, overrides, config_dir, problems = split_arguments(sys.argv[1:])
        # A plain run reports everything it can know before it starts; `--cfg` may print a config with blanks.
        sweep = not {"-m", "--multirun"}.isdisjoint(flags)
        config = check(name, schema_type if not flags else None, overrides, problems, config_dir, sweep)
        if sweep and world_size() > 1:
            raise ConfigError(NO_SWEEP)
        if config is not None and is_main():
            check_resume(Path(config.output_dir), _resume(config))
            made = None if Path(config.output_dir).exists() else Path(config.output_dir)
            lock.enter_context(run_lock.held(Path(config.output_dir)))
            refuse_overwrite(Path(config.output_dir), _resume(config), hasattr(config, "resume"))
    except UserError as error:
        lock.close()
        if local_rank() == 0:  # the others of this machine found the same
            _stop(name, error)
        sys.exit(error.exit_code)

    def task(cfg: DictConfig) -> None:
        def clear() -> None:
            leave_nothing(made)
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                leave_no_job(Path(HydraConfig.get().runtime.output_dir), Path(HydraConfig.get().sweep.dir))

        try:
            _start(cfg, schema_type, run)
        except KeyboardInterrupt:
            clear()
            raise
        except UserError as error:
            clear()
            _stop(name, error)
        except (OSError, RuntimeError) as error:
            if (told := limit_of(error)) is None:
                raise
            clear()
            _stop(name, DataError(told))

    # flags first: argparse takes no flag between overrides
    rest = [argument for argument in sys.argv[1:] if argument not in overrides]
    sys.argv[1:] = [*rest, *overrides, *([] if is_main() else _QUIET)]
    with lock:
        hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)(task)()


def lazily(module: str) -> Callable[[Any, Path], object]:
    """`run` of a module that is imported when it is called, so that settings are checked without torch."""
    return lambda config, output_dir: importlib.import_module(module).run(config, output_dir)


NO_SWEEP = (
    "a sweep (-m) works with one process only: with several, every process would start a sweep of its own. "
    "Start one run for each value, each with its own output_dir: "
    "for lr in 1e-4 2e-4; do torchrun ... optim.base_lr=$lr output_dir=runs/lr_$lr; done"
)

_QUIET = (
    "hydra.output_subdir=null",  # .hydra/ and the log file are the first process's
    "hydra.job_logging.root.handlers=[console]",
    "~hydra.job_logging.handlers.file",
)


def _run_name() -> str:
    """Default name of a run, the same on every process of it: the SLURM job, which survives requeues, or the time."""
    launched = launch()
    if launched is not None and launched.kind == "srun":
        return f"slurm_{os.environ['SLURM_JOB_ID']}"
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return now if launched is None or launched.world_size == 1 else agree(STARTED, now)


def check_resume(output_dir: Path, resume: str | None) -> None:
    """resume=auto needs a run to go on with, unless a launcher starts the same command again and again.

    Raises ConfigError: the directory is new at every start, or not there.
    """
    if resume != "auto":
        return
    started = os.environ.get(STARTED, "?")
    if started in str(output_dir) and not started.startswith("slurm_"):
        raise ConfigError(
            "resume=auto looks for checkpoints in output_dir, and the default one is new at every start. "
            "Add output_dir=..."
        )
    if not output_dir.exists() and launch() is None and "SLURM_JOB_ID" not in os.environ:
        raise ConfigError(
            f"resume=auto goes on with the run in output_dir={output_dir}, which does not exist. Correct the name, or "
            "add resume=null to start a new run there."
        )


def leave_nothing(made: Path | None) -> None:
    """Empty the directory of a run that did not start, where it holds what Hydra wrote and no more.

    made: one that was not there before, or None. The lock takes the empty one away.
    """
    if made is None or not made.is_dir() or not all(map(_is_no_result, made.iterdir())):
        return
    shutil.rmtree(made / ".hydra", ignore_errors=True)
    for log in made.glob("*.log"):
        log.unlink()


def leave_no_job(output_dir: Path, sweep_dir: Path) -> None:
    """The same of one job of a sweep, whose directory Hydra made, and of the sweep's where no other job is left."""
    leave_nothing(output_dir)
    with suppress(OSError):  # what a run has written stays
        output_dir.rmdir()
        if [path.name for path in sweep_dir.iterdir()] == [SWEEP]:
            (sweep_dir / SWEEP).unlink()
            sweep_dir.rmdir()


def _is_no_result(path: Path) -> bool:
    return path.name in (".hydra", run_lock.NAME) or path.suffix == ".log"


def _resume(config: Any) -> str | None:
    """Of commands that can go on with what they began."""
    return getattr(config, "resume", None)


def refuse_overwrite(output_dir: Path, resume: str | None, resumable: bool = True) -> None:
    """A run never writes into the directory of another one; `resumable` are those that know the setting `resume`.

    Raises ConfigError: the directory holds more than what Hydra just put there and nothing asks to resume it.
    """
    if resume is not None or not output_dir.is_dir():
        return
    others = sorted(path.name for path in output_dir.iterdir() if not _is_no_result(path))
    if others:
        raise ConfigError(
            f"output_dir={output_dir} is not empty (it holds {', '.join(others[:3])}). "
            f"{'Add resume=auto to continue that run, or choose' if resumable else 'Choose'} another output_dir."
        )


def _start(cfg: DictConfig, schema_type: type[T], run: Callable[[T, Path], object]) -> None:
    hydra_cfg = HydraConfig.get()
    config: Any = load(schema_type, cfg)
    if hydra_cfg.mode == RunMode.MULTIRUN and getattr(config.trainer, "world_size", 1) > 1:
        raise ConfigError(NO_SWEEP)
    output_dir = Path(hydra_cfg.runtime.output_dir)
    with ExitStack() as lock:
        if is_main():
            if os.path.realpath(config.output_dir) != os.path.realpath(output_dir):  # one of a sweep, each its own
                lock.enter_context(run_lock.held(output_dir))
            refuse_overwrite(output_dir, _resume(config), hasattr(config, "resume"))
        else:
            logging.getLogger().setLevel(logging.WARNING)
        run(config, output_dir)


def _stop(name: str, error: UserError) -> typing.NoReturn:
    who = name if world_size() == 1 else f"{name} (rank {rank()})"
    print(f"{who}: {error.label}:{SEPARATOR}{error}", file=sys.stderr)
    sys.exit(error.exit_code)
