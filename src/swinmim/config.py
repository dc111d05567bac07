"""Typed settings: YAML composes, dataclasses decide. `load` is the only place that sees a DictConfig."""

import dataclasses
import re
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from swinmim.errors import ConfigError
from swinmim.models.errors import ModelError, nearest

T = TypeVar("T")

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]

Area = Annotated[float, Field(gt=0, le=1)]
"""A share of something of which some is left."""

SEPARATOR = "\n  - "
"""Between the problems of one ConfigError."""

# An installed wheel carries conf/ inside the package; a checkout keeps it at the top.
CONF_DIR = next(
    folder
    for folder in (Path(__file__).parent / "conf", Path(__file__).parents[2] / "conf")
    if (folder / "pretrain.yaml").is_file()
)


@dataclass_transform(kw_only_default=True, frozen_default=True)
def schema(cls: type[T]) -> type[T]:
    """Frozen keyword-only dataclass that refuses unknown keys, NaN and infinity when it is loaded from YAML."""
    made = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    made.__pydantic_config__ = ConfigDict(extra="forbid", allow_inf_nan=False)  # type: ignore[attr-defined]
    return made


@schema
class ModelConfig:
    name: str
    """swinv2_{t,s,b,l,h,g}, or swinv2_demo for 32-px images."""
    in_chans: Count = 3
    embed_dim: Count | None = None
    """Width of the first stage; null is the named model's."""
    head_dim: Count | None = None
    """Channels per head; null is the named model's (32)."""

    def overrides(self) -> dict[str, int]:
        """What replaces fields of the named architecture."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k != "name" and v is not None}


def load(schema_type: type[T], cfg: DictConfig) -> T:
    """Turn a composed config into typed dataclasses.

    Raises ConfigError: every problem at once: unknown keys with the nearest legal one, wrong types, broken rules.
    """
    try:
        data = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:  # an interpolation that leads nowhere, or one that security.py closes
        reason = str(error).splitlines()[0].removeprefix("ConfigError raised while resolving interpolation: ")
        raise ConfigError(f"{error.full_key}: {reason}") from None
    assert isinstance(data, dict)
    problems = list(_missing(schema_type, data))
    try:
        typed = TypeAdapter(schema_type).validate_python(data)
    except ValidationError as error:
        problems += _describe(schema_type, data, error)
    if problems:
        raise ConfigError(SEPARATOR.join(problems))
    return typed


@contextmanager
def config_errors() -> Iterator[None]:
    """A ModelError of the code inside is the user's: models know no ConfigError. Other errors keep their trace."""
    try:
        yield
    except ModelError as error:
        raise ConfigError(str(error)) from None


def _missing(schema_type: type[Any], data: dict[Any, Any], prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(schema_type):
        value = data.get(field.name)
        if value == "???":
            hint = field.metadata.get("required")
            key = f"{prefix}{field.name}"
            yield f"{key}: a value is required{': ' + hint if hint else ''}. Add {key}=..."
        if isinstance(value, dict) and (nested := _nested_schema(schema_type, field.name, value)):
            yield from _missing(nested, value, f"{prefix}{field.name}.")


def _nested_schema(schema_type: type[Any], name: str, value: Any) -> type[Any] | None:
    """The schema of a field; of several, the one whose `kind` is the value's."""
    hint = typing.get_type_hints(schema_type).get(name)
    options = [o for o in (hint, *typing.get_args(hint)) if isinstance(o, type) and dataclasses.is_dataclass(o)]
    kind = value.get("kind") if isinstance(value, dict) else None
    chosen = [option for option in options if kind in typing.get_args(typing.get_type_hints(option).get("kind"))]
    return next(iter(chosen or options), None)


def _describe(schema_type: type[Any], data: dict[Any, Any], error: ValidationError) -> list[str]:
    """One line for each key at fault; the alternatives of a union are joined."""
    lines: dict[str, list[str]] = {}
    found = error.errors()
    out_of_range = [_place(data, item["loc"]) for item in found if item["type"] in _RANGES]
    for item in found:
        if item["type"] == "tuple_type" and _place(data, item["loc"]) in out_of_range:
            continue  # the other alternative was meant, and says why not
        if item["input"] == "???":  # reported as missing
            continue
        location = _keys_of(data, item["loc"])
        path = ".".join(map(str, location))
        node: Any = data
        match item["type"]:
            case "union_tag_invalid":
                path = f"{path}.kind"
                kind, known = item["ctx"]["tag"], re.findall(r"'([^']*)'", item["ctx"]["expected_tags"])
                lines[path] = [f"{path}: unknown '{kind}'.{nearest(kind, known)} Known: {', '.join(known)}."]
            case "unexpected_keyword_argument":
                owner: type[Any] | None = schema_type
                for part in location[:-1]:
                    node = _child(node, part)
                    owner = _nested_schema(owner, str(part), node) if owner else None
                legal = [field.name for field in dataclasses.fields(owner)] if owner else []
                hint = nearest(str(location[-1]), legal)
                lines[path] = [f"unknown key '{path}'.{hint} Legal keys: {', '.join(legal)}."]
            case "missing" | "missing_argument" | "missing_keyword_only_argument":
                lines[path] = [f"{path}: a value is required."]
            case _:
                for part in (place := _place(data, location)):
                    node = _child(node, part)
                path = ".".join(map(str, place))
                message = item["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
                received = "" if item["type"] == "value_error" else f"; got {node!r}"
                lines.setdefault(path, []).append(f"{message}{received}")
    described = []
    for path, texts in lines.items():
        text = "; or ".join(dict.fromkeys(texts))
        named = path == "" or text.startswith(("unknown key", f"{path}:"))
        described.append(text if named else f"{path}: {text}")
    return described


def _keys_of(data: Any, location: Sequence[int | str]) -> list[int | str]:
    """A place without the alternative of a union that `kind` chose, which pydantic names among the keys."""
    keys: list[int | str] = []
    for part in location:
        if not (isinstance(data, dict) and part not in data and part == data.get("kind")):
            keys.append(part)
            data = _child(data, part)
    return keys


def _place(data: Any, location: Sequence[int | str]) -> list[int | str]:
    """A place as far as the data go; the parts after that name alternatives of a union, not keys."""
    keys: list[int | str] = []
    for part in location:
        if (data := _child(data, part)) is _ABSENT:
            break
        keys.append(part)
    return keys


_RANGES = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")

_ABSENT = object()


def _child(node: Any, part: int | str) -> Any:
    """node[part], or _ABSENT where there is no such entry."""
    match node:
        case dict():
            return node.get(part, _ABSENT)
        case list() if isinstance(part, int) and part < len(node):
            return node[part]
        case _:
            return _ABSENT
