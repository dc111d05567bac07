"""Every numeric setting has its range in its schema: no number that is absurd for it is let through."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf

from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from swinmim.composition import check
from swinmim.config import load
from swinmim.door import STARTED
from swinmim.errors import ConfigError

ROOTS = {
    "pretrain": (PretrainConfig, ["data.path=x"]),
    "finetune": (FinetuneConfig, ["data.path=x", "ckpt=x", "data.labels_per_class=4"]),
    "multilabel": (FinetuneConfig, ["data.path=x", "ckpt=x", "task=multilabel"]),
}
ABSURD = {"negative": -7, "negative and a fraction": -0.5, "not a number": math.nan, "infinite": math.inf}


@pytest.fixture(scope="module")
def settings():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STARTED, "x")
        return {
            name: dataclasses.asdict(check(name.replace("multilabel", "finetune"), schema, overrides))
            for name, (schema, overrides) in ROOTS.items()
        }


def numbers(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Places of all numbers of the settings, also in lists."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list | tuple) else ()
    for key, child in children:
        if isinstance(child, int | float) and not isinstance(child, bool):
            yield (*path, key)
        yield from numbers(child, (*path, key))


def plain(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: plain(child) for key, child in node.items()}
    return [plain(child) for child in node] if isinstance(node, list | tuple) else node


@pytest.mark.parametrize("value", ABSURD.values(), ids=ABSURD)
@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.slow
def test_no_setting_takes_an_absurd_number(settings, root, value):
    places = list(numbers(settings[root]))
    assert len(places) > 30
    taken = []
    for place in places:
        changed = plain(settings[root])
        node = changed
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = value
        try:
            load(ROOTS[root][0], OmegaConf.create(changed))
        except ConfigError:
            continue
        taken.append(".".join(map(str, place)))
    assert taken == []
