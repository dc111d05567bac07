"""From the command line to typed settings: composed without side effects, every problem reported at once."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from swinmim.config import CONF_DIR, SEPARATOR, load
from swinmim.errors import ConfigError
from swinmim.models.errors import nearest
from swinmim.security import HYDRA_KEYS, config_problems, override_problem
from swinmim.urls import holds_password


def check(
    name: str,
    schema_type: type[Any] | None,
    overrides: Sequence[str],
    found: Sequence[str] = (),
    config_dir: Path | None = None,
    sweep: bool = False,
) -> Any:
    """Compose once without side effects and report every problem of the command line and the composed config.

    name: root config. schema_type: its schema; None checks only the command line, for a config that may have blanks.
    overrides: as typed. found: problems known before, reported with the others. config_dir: the user's own conf
    directory (--config-dir), searched after the program's. sweep: whether overrides may list several values (-m).
    Returns the typed config, or None without a schema.

    Raises ConfigError: the list of problems.
    """
    problems = list(found)
    config = None
    folders = [CONF_DIR]
    search: list[str] = []  # what --config-dir is to Hydra's compose
    if config_dir is not None and _is_conf(config_dir, problems):
        folders.append(config_dir)
        quoted = str(config_dir).replace("'", r"\'")
        search = [f"hydra.searchpath=['file://{quoted}']"]
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
        if not sweep:
            parsed = _sound(parsed, _sweep_problem, problems)
        groups = [o for o in parsed if _is_group(o.key_or_group)]
        keys = [o for o in parsed if o not in groups]
        chosen = plain.hydra.runtime.choices
        groups = _sound(groups, partial(_group_problem, name=name, folders=folders, chosen=chosen), problems)
        fixed = [o for o in groups if not o.is_sweep_override()]
        base = _compose(name, search, fixed, problems)
        if base is not None:
            keys = _sound(keys, partial(_key_problem, cfg=base), problems)
            composed = _compose(name, search, fixed + [o for o in keys if not o.is_sweep_override()], problems)
            choices = [
                parser.parse_override(f"{group.key_or_group}={value}")
                for group in groups
                if group.is_sweep_override()
                for value in group.sweep_string_iterator()
            ]
            jobs = [_compose(name, search, [*fixed, choice], problems) for choice in choices]
            for part in (composed, *jobs):
                problems += config_problems(part, plain) if part is not None else []
            if composed is not None and schema_type is not None:
                settings = {field.name for field in dataclasses.fields(schema_type)}
                below = [o for o in fixed if o.key_or_group in set(composed) - settings]
                problems += [
                    f"the file of {o.input_line} must begin with the line '# @package _global_'." for o in below
                ]
                config = _load(schema_type, composed, problems) if not below else None
    GlobalHydra.instance().clear()
    if problems:
        raise ConfigError(SEPARATOR.join(problems))
    return config


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


def _is_group(key: str) -> bool:
    return key != "" and "." not in key and (CONF_DIR / key).is_dir()


def _is_conf(folder: Path, problems: list[str]) -> bool:
    """Whether a user's conf directory has a folder that settings are chosen from; else that is a problem."""
    groups = sorted(path.name for path in CONF_DIR.iterdir() if path.is_dir() and path.name != "hydra")
    if (folder / "hydra").exists():
        problems.append(f"{folder / 'hydra'}: Hydra's own settings can name code to run. Remove that folder.")
    elif not any((folder / group).is_dir() for group in groups):
        what = f"holds none of the folders {', '.join(groups)}" if folder.is_dir() else "is no directory"
        problems.append(f"--config-dir={folder} {what}. Your file belongs to DIR/experiment/NAME.yaml.")
    else:
        return True
    return False


def _sweep_problem(override: Override) -> str | None:
    """Several values, which Hydra would start several runs for, where one run is asked for."""
    if not override.is_sweep_override():
        return None
    key, text = override.key_or_group, str(override.input_line).partition("=")[2]
    return (
        f"{override.input_line}: several values start a run each, which -m asks for. One list is '{key}=[{text}]', one "
        f"text with a comma '{key}=\"{text}\"'."
    )


def _group_problem(
    override: Override, name: str, folders: Sequence[Path], chosen: Mapping[str, str | None]
) -> str | None:
    """chosen: the groups of this command -> their file by default."""
    group = override.key_or_group
    if group not in chosen:
        groups = ", ".join(sorted(known for known in chosen if "/" not in known and known != "hydra"))
        has = f"It has: {groups}" if groups else f"Its settings are key=value: python -m finetune.{name} --cfg job"
        return f"{name} has no {group} to choose. {has}."
    if override.type in (OverrideType.ADD, OverrideType.FORCE_ADD):
        return f"+{group}: {group} is there already. Write it without '+': {group}=..."
    if override.type != OverrideType.DEL and override.value() is None:
        without = f"{group}=none" if (CONF_DIR / group / "none.yaml").is_file() else f"~{group}"
        how = f"to go without it, write {without}" if chosen[group] else "it is off by default, leave it out"
        return f"{group}=null: {how}."
    paths = [path for folder in folders for path in sorted((folder / group).glob("*.yaml"))]
    files = {path.stem: path for path in reversed(paths)}  # Hydra takes the first of a name
    known = [stem for stem, path in reversed(files.items()) if group != "experiment" or _is_for(name, path)]
    values = [override.value()] if not override.is_sweep_override() else list(override.sweep_string_iterator())
    for value in map(str, values if override.type != OverrideType.DEL else ()):
        if value not in known:
            other = f" It belongs to: {_command(files[value])}." if value in files else nearest(value, known)
            return f"unknown {group} '{value}'.{other} Known: {', '.join(known)}."
        hidden = [path for path in paths if path.stem == value and path != files[value]]
        if hidden:
            return f"{hidden[0]} would not be read: the program has its own {group}={value}. Give it another name."
    return None


def _command(experiment: Path) -> str:
    """The command in an experiment's header; empty where the file names none."""
    found = re.search(r"^#\s*command:(.*)", experiment.read_text(errors="replace"), re.IGNORECASE | re.MULTILINE)
    return found[1].strip() if found else ""


def _is_for(name: str, experiment: Path) -> bool:
    command = _command(experiment)
    return not command or f"python -m {name} " in f"{command} "


def _key_problem(override: Override, cfg: DictConfig) -> str | None:
    key = override.key_or_group
    if key in HYDRA_KEYS:
        return None
    known = _keys(cfg)
    if override.type == OverrideType.DEL:
        return f"~{key}: a setting cannot be removed. Write {key}=null where it may be off."
    if override.type in (OverrideType.ADD, OverrideType.FORCE_ADD):
        if key in known:
            return f"+{key}: {key} is there already. Write it without '+': {key}=..."
        return f"unknown key '{key}': '+' cannot add keys that the program does not read.{nearest(key, known)}"
    if key in known:
        return None
    if not key:
        return f"'{override.input_line}' names no setting. Write key=value."
    near = nearest(key, [path for path in known if not key.startswith(f"{path}.")])
    parent = key.rpartition(".")[0]
    while parent and parent not in known:
        parent = parent.rpartition(".")[0]
    legal = sorted(path for path in known if path.rpartition(".")[0] == parent)
    names = ", ".join(path.rpartition(".")[2] for path in legal)
    where = f" Legal keys{' of ' + parent if parent else ''}: {names}." if legal else ""
    return f"unknown key '{key}'.{near}{where}"


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


def _compose(name: str, search: Sequence[str], overrides: Sequence[Override], problems: list[str]) -> DictConfig | None:
    try:
        lines = [*search, *(str(override.input_line) for override in overrides)]
        return compose(name, overrides=lines, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        problems.append(" ".join(str(error).split()))
        return None


def _load(schema_type: type[Any], composed: DictConfig, problems: list[str]) -> Any:
    try:
        return load(schema_type, OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"]))
    except ConfigError as error:
        problems.extend(str(error).split(SEPARATOR))
    return None
