"""The one door between the command line and the code: checks everything first, reports every problem at once."""

import logging
import os
import sys
import typing
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from swinmim.config import CONF_DIR, SEPARATOR, load, nearest, numbered
from swinmim.distributed import agree, is_main, launch, local_rank, rank, world_size
from swinmim.errors import ConfigError, UserError
from swinmim.security import (
    HYDRA_KEYS,
    close_environment,
    config_problems,
    override_problem,
    split_arguments,
    tighten_umask,
)
from swinmim.urls import holds_password

T = TypeVar("T")

STARTED = "SWINMIM_STARTED"
"""Environment variable with the default name of a run, so that all ranks agree on the default output directory."""


NOT_FOR_USERS = (
    r".*isinstance\(treespec, LeafSpec\).* is deprecated",  # Lightning 2.6.6 calling torch 2.15
    r".*does not have many workers",  # data.num_workers is the user's choice
    r".*smaller than the logging interval",
    r".*`IterableDataset` has `__len__` defined",  # streams divide themselves among loader processes
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
    tighten_umask()
    close_environment()
    try:
        if STARTED not in os.environ:
            os.environ[STARTED] = _run_name()
        flags, overrides, problems = split_arguments(sys.argv[1:])
        # A plain run reports everything it can know before it starts; `--cfg` may print a config with blanks.
        config = check(name, schema_type if not flags else None, overrides, problems)
        if {"-m", "--multirun"} & set(flags) and world_size() > 1:
            raise ConfigError(NO_SWEEP)
        if config is not None and is_main():
            refuse_overwrite(Path(config.output_dir), config.resume)
    except UserError as error:
        if local_rank() == 0:  # the others of this machine found the same
            _stop(name, error)
        sys.exit(error.exit_code)

    def task(cfg: DictConfig) -> None:
        try:
            _start(cfg, schema_type, run)
        except UserError as error:
            _stop(name, error)

    # flags first: argparse takes no flag between overrides
    rest = [argument for argument in sys.argv[1:] if argument not in overrides]
    sys.argv[1:] = [*rest, *overrides, *([] if is_main() else _QUIET)]
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name=name)(task)()


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


def check(name: str, schema_type: type[Any] | None, overrides: Sequence[str], found: Sequence[str] = ()) -> Any:
    """Compose once without side effects and report every problem of the command line and the composed config.

    Args:
        name: root config.
        schema_type: its schema; None checks only the command line, for a config that may have blanks.
        overrides: as typed.
        found: problems known before, reported with the others.

    Returns:
        The typed config, or None without a schema.

    Raises:
        ConfigError: the list of problems.
    """
    problems = list(found)
    config = None
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3", job_name=name):
        parser = OverridesParser.create()
        parsed: list[Override] = []
        for text in overrides:
            try:
                parsed.append(parser.parse_override(text))
            except HydraException as error:
                shown = "an argument" if holds_password(text) else f"'{text}'"
                problems.append(f"cannot read {shown}: {str(error).splitlines()[0]}. Write key=value.")
        plain = compose(name, return_hydra_config=True)
        parsed = _sound(parsed, override_problem, problems)
        groups = [o for o in parsed if _is_group(o.key_or_group)]
        keys = [o for o in parsed if o not in groups]
        groups = _sound(groups, partial(_group_problem, name=name), problems)
        fixed = [o for o in groups if not o.is_sweep_override()]
        base = _compose(name, fixed, problems)
        if base is not None:
            keys = _sound(keys, partial(_key_problem, cfg=base), problems)
            composed = _compose(name, fixed + [o for o in keys if not o.is_sweep_override()], problems)
            jobs = [_compose(name, [*fixed, one], problems) for one in _values(groups, parser)]
            for part in (composed, *jobs):
                problems += config_problems(part, plain) if part is not None else []
            if composed is not None and schema_type is not None:
                config = _load(schema_type, composed, problems)
    GlobalHydra.instance().clear()
    if problems:
        raise ConfigError(numbered(problems))
    return config


def refuse_overwrite(output_dir: Path, resume: str | None) -> None:
    """A run never writes into the directory of another one.

    Raises:
        ConfigError: the directory holds more than what Hydra just put there and nothing asks to resume it, or
            resume=auto is asked for in a directory that is new at every start.
    """
    started = os.environ.get(STARTED, "?")
    if resume == "auto" and started in str(output_dir) and not started.startswith("slurm_"):
        raise ConfigError(
            "resume=auto looks for checkpoints in output_dir, and the default one is new at every start. "
            "Add output_dir=..."
        )
    if resume is not None or not output_dir.is_dir():
        return
    others = sorted(path.name for path in output_dir.iterdir() if path.name != ".hydra" and path.suffix != ".log")
    if others:
        raise ConfigError(
            f"output_dir={output_dir} is not empty (it holds {', '.join(others[:3])}). "
            "Add resume=auto to continue that run, or choose another output_dir."
        )


def _start(cfg: DictConfig, schema_type: type[T], run: Callable[[T, Path], object]) -> None:
    hydra_cfg = HydraConfig.get()
    config: Any = load(schema_type, cfg)
    if hydra_cfg.mode == RunMode.MULTIRUN and config.trainer.world_size > 1:
        raise ConfigError(NO_SWEEP)
    output_dir = Path(hydra_cfg.runtime.output_dir)
    if is_main():
        refuse_overwrite(output_dir, config.resume)
    else:
        logging.getLogger().setLevel(logging.WARNING)
    run(config, output_dir)


def _stop(name: str, error: UserError) -> typing.NoReturn:
    who = name if world_size() == 1 else f"{name} (rank {rank()})"
    print(f"{who}: {error.label}:{SEPARATOR}{error}", file=sys.stderr)
    sys.exit(error.exit_code)


def _sound(
    overrides: Sequence[Override], problem_of: Callable[[Override], str | None], problems: list[str]
) -> list[Override]:
    """The overrides without a problem; the problems of the others are added to the list."""
    good = []
    for override in overrides:
        problem = problem_of(override)
        if problem is None:
            good.append(override)
        else:
            problems.append(problem)
    return good


def _values(groups: Sequence[Override], parser: OverridesParser) -> list[Override]:
    """The choices of a sweep over files of a group, one by one."""
    return [
        parser.parse_override(f"{group.key_or_group}={value}")
        for group in groups
        if group.is_sweep_override()
        for value in group.sweep_string_iterator()
    ]


def _is_group(key: str) -> bool:
    return "." not in key and (CONF_DIR / key).is_dir()


def _group_problem(override: Override, name: str) -> str | None:
    group = override.key_or_group
    files = {path.stem: path for path in sorted((CONF_DIR / group).glob("*.yaml"))}
    if group == "experiment":  # each names its command in its header
        files = {stem: path for stem, path in files.items() if f"python -m {name} " in f"{_command(path)} "}
    values = [override.value()] if not override.is_sweep_override() else list(override.sweep_string_iterator())
    for value in map(str, filter(None, values)):
        if value not in files and value != "null":
            path = CONF_DIR / group / f"{value}.yaml"
            other = f" It belongs to: {_command(path)}." if path.is_file() else nearest(value, list(files))
            return f"unknown {group} '{value}'.{other} Known: {', '.join(files)}."
    return None


def _command(experiment: Path) -> str:
    """The command in an experiment's header."""
    lines = experiment.read_text().splitlines()
    return next(line.removeprefix("# Command:").strip() for line in lines if line.startswith("# Command:"))


def _key_problem(override: Override, cfg: DictConfig) -> str | None:
    key = override.key_or_group
    if key in HYDRA_KEYS:
        return None
    if override.type in (OverrideType.ADD, OverrideType.FORCE_ADD):
        return f"unknown key '{key}': '+' cannot add keys that the program does not read.{nearest(key, _keys(cfg))}"
    known = _keys(cfg)
    if key in known:
        return None
    parent = key.rpartition(".")[0]
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    legal = sorted(path for path in known if path.rpartition(".")[0] == parent)
    names = ", ".join(path.rpartition(".")[2] for path in legal)
    where = f" Legal keys{' of ' + parent if parent else ''}: {names}." if legal else ""
    return f"unknown key '{key}'.{nearest(key, known)}{where}"


def _keys(cfg: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in map(str, cfg):
        path = f"{prefix}{key}"
        if path == "hydra":
            continue
        found.append(path)
        node = cfg._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            found.extend(_keys(node, f"{path}."))
    return found


def _compose(name: str, overrides: Sequence[Override], problems: list[str]) -> DictConfig | None:
    try:
        return compose(name, overrides=[str(o.input_line) for o in overrides], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        problems.append(" ".join(str(error).split()))
        return None


def _load(schema_type: type[Any], composed: DictConfig, problems: list[str]) -> Any:
    try:
        return load(schema_type, OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))
    except ConfigError as error:
        problems.extend(str(error).split(SEPARATOR))
    return None
