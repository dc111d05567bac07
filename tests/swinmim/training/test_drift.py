import dataclasses
import json
from pathlib import Path
from typing import get_args, get_origin

import pytest

from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from swinmim import door
from swinmim.composition import check
from swinmim.errors import ConfigError
from swinmim.training.drift import ABSENT, FREE, check_drift, differences, is_free

SETTINGS = {
    "trainer": {"max_epochs": 100, "devices": 1},
    "optim": {"betas": (0.9, 0.95), "base_lr": 1e-4},
    "logger": {"kind": "csv", "wandb": None},
    "seed": 0,
    "resume": None,
    "allow_drift": (),
}


def settings(**changes):
    """SETTINGS with `group__key=value` replaced."""
    changed = {key: dict(value) if isinstance(value, dict) else value for key, value in SETTINGS.items()}
    for path, value in changes.items():
        group, _, key = path.partition("__")
        if key:
            changed[group][key] = value
        else:
            changed[group] = value
    return changed


@pytest.fixture
def stored():
    return json.loads(json.dumps(SETTINGS))  # tuples come back as lists


def test_nothing_changed(stored, caplog):
    assert differences(stored, SETTINGS) == {}
    with caplog.at_level("INFO"):
        check_drift(stored, SETTINGS, ())
    assert not caplog.records


def test_differences_are_leaves_and_lists_are_one():
    now = settings(optim__betas=(0.9, 0.999), logger__wandb={"project": "p"}, seed=1)
    assert differences(SETTINGS, now) == {
        "optim.betas": ([0.9, 0.95], [0.9, 0.999]),
        "logger.wandb": (None, ABSENT),
        "logger.wandb.project": (ABSENT, "p"),
        "seed": (0, 1),
    }


def test_a_change_is_refused_with_both_values_and_the_way_out(stored):
    now = settings(trainer__max_epochs=200, optim__base_lr=2e-4, trainer__devices=2)
    with pytest.raises(ConfigError) as caught:
        check_drift(stored, now, ())
    message = str(caught.value)
    assert "trainer.max_epochs: 100 -> 200" in message
    assert "optim.base_lr: 0.0001 -> 0.0002" in message
    assert "devices" not in message
    assert "allow_drift=[optim.base_lr,trainer.max_epochs]" in message or (
        "allow_drift=[trainer.max_epochs,optim.base_lr]" in message
    )
    assert caught.value.exit_code == 2


def test_each_key_must_be_allowed(stored):
    now = settings(trainer__max_epochs=200, optim__base_lr=2e-4)
    with pytest.raises(ConfigError, match=r"allow_drift=\[trainer.max_epochs,optim.base_lr\]"):
        check_drift(stored, now, ["trainer.max_epochs"])
    check_drift(stored, now, ["trainer.max_epochs", "optim.base_lr"])


def test_free_and_allowed_changes_are_told(stored, caplog):
    with caplog.at_level("INFO"):
        check_drift(stored, settings(trainer__max_epochs=200, trainer__devices=2), ["trainer.max_epochs"])
    assert "trainer.max_epochs: 100 -> 200" in caplog.text
    assert "trainer.devices: 1 -> 2" in caplog.text


@pytest.mark.parametrize(
    ("key", "value"), [("seed", 1), ("global_batch_size", 64), ("data__val_ratio", 0.5), ("data__lanes", 2)]
)
def test_what_the_order_depends_on_cannot_be_allowed(stored, key, value):
    stored |= {"global_batch_size": 32, "data": {"val_ratio": 0.1, "lanes": 1}}
    now = settings(trainer__max_epochs=200, global_batch_size=32, data={"val_ratio": 0.1, "lanes": 1})
    group, _, name = key.partition("__")
    now[group] = {**now[group], name: value} if name else value
    with pytest.raises(ConfigError, match=r"start a new run from its weights \(ckpt=") as caught:
        check_drift(stored, now, ())
    assert f"depends on {key.replace('__', '.')}." in str(caught.value)
    assert "trainer.max_epochs: 100 -> 200" in str(caught.value)
    assert "allow_drift" not in str(caught.value)


def test_the_sets_of_a_mixture_may_move_but_not_their_weights(stored):
    stored["data"] = {"mix": [{"path": "a", "weight": 0.5}, {"path": "b", "weight": 1.0}]}
    moved = {"mix": ({"path": "a", "weight": 0.5}, {"path": "c", "weight": 1.0})}
    assert differences(stored, settings(data=moved)) == {"data.mix.1.path": ("b", "c")}
    check_drift(stored, settings(data=moved), ())
    moved["mix"][1]["weight"] = 2.0
    with pytest.raises(ConfigError, match=r"data.mix.1.weight: 1.0 -> 2.0\n.*depends on data.mix.1.weight"):
        check_drift(stored, settings(data=moved), ())
    with pytest.raises(ConfigError, match=r"data.mix: \(absent\) -> \[\]\n.*start a new run"):
        check_drift(stored, settings(data={"mix": ()}), ())


@pytest.mark.parametrize("entry", ["seed", "trainer.max_epoch", "trainer", "trainer.devices"])
def test_an_entry_without_effect_is_an_error(stored, entry):
    now = settings(trainer__max_epochs=200, trainer__devices=2)
    with pytest.raises(ConfigError, match=f"allow_drift: {entry} did not change") as caught:
        check_drift(stored, now, ["trainer.max_epochs", entry])
    if entry == "trainer.max_epoch":
        assert "Did you mean 'trainer.max_epochs'?" in str(caught.value)


def test_a_requeued_job_may_repeat_its_command(stored):
    adopted = json.loads(json.dumps(settings(trainer__max_epochs=200, allow_drift=("trainer.max_epochs",))))
    check_drift(adopted, settings(trainer__max_epochs=200), ["trainer.max_epochs"])


def test_a_key_that_one_side_lacks_is_a_change(stored):
    now = settings(optim__new=3)
    with pytest.raises(ConfigError, match=r"optim.new: \(absent\) -> 3"):
        check_drift(stored, now, ())


def test_shares_of_the_run_are_no_change_where_lengths_were_typed(stored):
    stored["schedule"] = {"warmup_epochs": 10, "milestones": [700]}
    shares = {"warmup_share": 0.0125, "milestone_shares": [0.875]}
    check_drift(stored, settings(schedule=shares | stored["schedule"]), ())
    with pytest.raises(ConfigError) as caught:
        check_drift(stored, settings(schedule=shares | {"warmup_epochs": None, "milestones": []}), ())
    assert "schedule.warmup_epochs: 10 -> null\n  schedule.milestones: [700] -> []" in str(caught.value)
    stored["schedule"] = shares
    with pytest.raises(ConfigError, match=r"schedule\.warmup_share: 0\.0125 -> 0\.1"):
        check_drift(stored, settings(schedule=shares | {"warmup_share": 0.1}), ())


@pytest.mark.parametrize("key", FREE)
def test_free_keys_exist_in_a_schema_and_are_documented(key):
    assert is_free(key)
    assert not is_free(f"{key}x")
    for root in (PretrainConfig, FinetuneConfig):
        node, found = root, True
        for part in key.split("."):
            fields = {field.name: field.type for field in dataclasses.fields(node)} if found else {}
            found = part in fields
            node = fields.get(part)
            node = get_args(node)[0] if get_origin(node) is tuple else node
        if found:
            break
    assert found
    assert f"`{key}`" in (Path(__file__).parents[3] / "docs" / "checkpoints.md").read_text()


@pytest.mark.parametrize(("name", "schema_type"), [("pretrain", PretrainConfig), ("finetune", FinetuneConfig)])
def test_real_settings_survive_the_file(name, schema_type, monkeypatch):
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")
    config = dataclasses.asdict(check(name, schema_type, ["ckpt=folder", "data.path=images"]))
    assert differences(json.loads(json.dumps(config)), config) == {}
    assert config["allow_drift"] == ()


def test_keys_that_left_are_not_missed(stored):
    check_drift(stored | {"data": {"streaming": False}}, SETTINGS, ())
    with pytest.raises(ConfigError, match=r"data\.streams: false -> \(absent\)"):
        check_drift(stored | {"data": {"streams": False}}, SETTINGS, ())


@pytest.mark.parametrize(("key", "off", "on"), [("ema_decay", None, 0.9), ("class_weights", "none", "auto")])
def test_a_key_that_older_checkpoints_lack_may_mean_what_was_done_then(stored, key, off, on):
    group = "callbacks" if key == "ema_decay" else "task"
    check_drift(stored, {**stored, group: {key: off}}, ())
    with pytest.raises(ConfigError, match=rf"{group}\.{key}: \(absent\) -> "):
        check_drift(stored, {**stored, group: {key: on}}, ())
