"""The house keeps its shape: rooms of a size to know by heart, maps at their doors, plain names, small constructors."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
FOLDERS = sorted(path.parent for path in SRC.rglob("__init__.py"))
ROOMS = [folder for folder in FOLDERS if folder.parent.name == "data"]
MAX_FILES, MAX_LEVELS, MAX_PARAMETERS = 14, 5, 8
SPARED = {"swinv2.SwinV2"}  # its options are those of the public `create_encoder`, named as timm names them
SETTINGS = ("dataclass", "schema", "BaseModel", "NamedTuple", "TypedDict")

each_folder = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(SRC)))
each_room = pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, `from a import b` as a and a.b."""
    for node in ast.walk(parsed(path)):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=str(module), names=names):
                yield module
                yield from (f"{module}.{name.name}" for name in names)


def levels(room: Path) -> dict[str, int]:
    """File of a room -> length of the longest chain of imports inside the room that begins with it."""
    package = ".".join(room.relative_to(SRC).parts)
    inside = {path.stem: path for path in files(room)}
    found: dict[str, int] = {}

    def level(name: str, chain: tuple[str, ...]) -> int:
        assert name not in chain, f"a circle: {' -> '.join((*chain, name))}"
        if name not in found:
            below = {one.removeprefix(f"{package}.") for one in imports(inside[name])} & inside.keys()
            found[name] = 1 + max((level(one, (*chain, name)) for one in below), default=0)
        return found[name]

    for name in inside:
        level(name, ())
    return found


def test_the_packages_are_found():
    assert {"swinmim", "data", "pretrain", "finetune"} <= {folder.name for folder in FOLDERS}
    assert len(ROOMS) >= 6


@each_room
def test_a_room_of_data_is_a_few_levels_deep(room):
    deep = levels(room)
    assert deep
    assert max(deep.values()) <= MAX_LEVELS, deep


@each_folder
def test_a_folder_has_few_files(folder):
    assert len(files(folder)) <= MAX_FILES, [path.name for path in files(folder)]


def test_every_folder_of_code_is_a_package():
    assert {path.parent for path in SRC.rglob("*.py")} == set(FOLDERS)


@each_folder
def test_the_docstring_of_a_package_is_its_map(folder):
    """It names every file and every room."""
    words = set(re.findall(r"\w+", ast.get_docstring(parsed(folder / "__init__.py")) or ""))
    rooms = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert {path.stem for path in files(folder)} | rooms <= words


def test_no_file_is_named_after_nothing():
    vague = {"utils", "util", "misc", "helpers", "helper", "common", "manager", "legacy"}
    paths = [path for root in (SRC, SRC.parent / "tests", SRC.parent / "scripts") for path in root.rglob("*")]
    assert [path for path in paths if path.stem in vague] == []


def is_settings(node: ast.ClassDef) -> bool:
    """Whether a class is a bundle of values: decorated as one, or with a base that makes it one."""
    named = [*node.decorator_list, *node.bases]
    return any(word in ast.unparse(one) for one in named for word in SETTINGS)


@each_folder
def test_constructors_take_few_parameters(folder):
    long = {}
    for path in files(folder):
        for owner in ast.walk(parsed(path)):
            if not isinstance(owner, ast.ClassDef) or is_settings(owner):
                continue
            for node in owner.body:
                if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                    count = len(node.args.posonlyargs + node.args.args + node.args.kwonlyargs) - 1
                    if count > MAX_PARAMETERS and f"{path.stem}.{owner.name}" not in SPARED:
                        long[f"{path.stem}.{owner.name}"] = count
    assert long == {}
