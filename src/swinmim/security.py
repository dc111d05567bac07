"""What a command line and a config file may not do: run code, read the environment, or carry passwords."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from swinmim.errors import ConfigError
from swinmim.urls import holds_password

FLAGS = {
    **dict.fromkeys(("--help", "-h", "--hydra-help", "--version", "--resolve"), False),
    **dict.fromkeys(("--run", "-r", "--multirun", "-m", "--shell-completion", "-sc"), False),
    **dict.fromkeys(("--cfg", "-c", "--info", "-i", "--package", "-p", "--config-dir", "-cd"), True),
}
"""Hydra's flags that name no root config and no pickle -> whether the next argument belongs to them."""

HYDRA_KEYS = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir", "hydra.job.name", "hydra.output_subdir")
"""What may be set of Hydra's own settings; most others name classes that Hydra makes or files that it reads."""

_HARMLESS = (*HYDRA_KEYS, "hydra.overrides.", "hydra.runtime.", "hydra.job.", "hydra.mode", "hydra.searchpath.")
_ENVIRONMENT = ("SWINMIM_STARTED",)


class Arguments(NamedTuple):
    """A command line, taken apart."""

    flags: list[str]
    """Those that ask for something other than a plain run."""
    overrides: list[str]
    config_dir: Path | None
    """The user's own conf directory, searched after the program's."""
    problems: list[str]


def split_arguments(arguments: Sequence[str]) -> Arguments:
    """Take a command line apart; flags that name another root config are problems.

    Hydra would load Python classes named in such configs, or a pickle (--experimental-rerun). What comes from
    --config-dir goes through `config_problems` like all files.
    """
    flags, overrides, problems = [], [], []
    config_dir = None
    rest = iter(arguments)
    for argument in rest:
        name, _, value = argument.partition("=")
        if not argument.startswith("-"):
            overrides.append(argument)
        elif name not in FLAGS:
            problems.append(
                f"the flag {name} is not accepted: settings come from conf/ and from key=value. A file of your own is "
                f"DIR/experiment/NAME.yaml with --config-dir DIR experiment=NAME. Accepted: {', '.join(FLAGS)}."
            )
            break  # whether the next argument is its value is unknown
        else:
            if FLAGS[name] and not value:
                value = next(rest, "")
            if name in ("--config-dir", "-cd"):
                config_dir = Path(value).absolute()
            else:
                flags.append(name)
    return Arguments(flags, overrides, config_dir, problems)


def override_problem(override: Override) -> str | None:
    """Why an override is refused whatever the config says, or None."""
    key = override.key_or_group
    if holds_password(str(override.input_line)):
        return (
            f"{key}: a URL with a password in it would be stored with the run and in its log. Write the URL without "
            "user:password@ and put the password into ~/.netrc (docs/security.md)."
        )
    package = override.package or ""
    if (re.split(r"[./]", key)[0] == "hydra" or package.split(".")[0] == "hydra") and key not in HYDRA_KEYS:
        return (
            f"'{key}{'@' + package if package else ''}' cannot be set: Hydra's own settings can name code to run. "
            f"Those that can: {', '.join(HYDRA_KEYS)}."
        )
    return None


def config_problems(composed: DictConfig, plain: DictConfig) -> Iterator[str]:
    """What a composed config (with its `hydra` node) holds that it must not.

    composed: with all files and overrides of this command line. plain: the root config alone; its `hydra` node is the
    one that is trusted.
    """
    trusted = dict(_leaves(plain.hydra, "hydra"))
    for path, value in _leaves(composed, ""):
        if path.startswith("hydra.") and trusted.get(path, trusted) != value and not path.startswith(_HARMLESS):
            yield f"a config file sets '{path}', which belongs to Hydra and can name code to run. Remove it there."
        if isinstance(value, str) and holds_password(value):
            yield f"{path}: a URL with a password in it would be stored with the run. Put it into ~/.netrc."
    if composed.hydra.job.env_set:
        yield "a config file sets 'hydra.job.env_set', which changes the environment. Export the variables yourself."


def _leaves(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(dotted path, value as written) of everything below a node; an empty container is a leaf."""
    value = OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, f"{path}.{key!s}" if path else str(key))
    elif isinstance(value, list) and value:
        for number, child in enumerate(value):
            yield from _leaves(child, f"{path}.{number}")
    else:
        yield path, value


def close_environment() -> None:
    """`${oc.env:NAME}` reads nothing but our own variable: what it gives is stored with the run, and sent to W&B."""

    def read(name: str, *_: str) -> str:
        if name not in _ENVIRONMENT:
            raise ConfigError(
                f"${{oc.env:{name}}} is not accepted, since settings are stored with the run. "
                'Let the shell fill it in: key="$NAME".'
            )
        return os.environ[name]

    OmegaConf.register_new_resolver("oc.env", read, replace=True)


def tighten_umask() -> None:
    """New files and directories are closed to other users; never opens what the user's own umask closes."""
    os.umask(os.umask(0o077) | 0o027)
