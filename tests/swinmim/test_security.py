"""Command lines and config files that would run code, read the environment or leak a password are refused."""

import os
import re
import stat
import sys
from pathlib import Path

import pytest

from pretrain.config import PretrainConfig
from swinmim import door
from swinmim.composition import check
from swinmim.errors import ConfigError
from swinmim.security import split_arguments, tighten_umask
from swinmim.urls import holds_password

TOUCH = "{_target_: webdataset.gopen, url: 'pipe:touch canary'}"
HANDLER = "{class: logging.FileHandler, filename: canary}"


@pytest.fixture
def knock(tmp_path, monkeypatch, capsys):
    """Call the door as the command would; gives what it printed, after it refused and no canary was made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")
    umask = os.umask(0o022)

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["pretrain", *arguments])
        with pytest.raises(SystemExit) as ended:
            door.open_door("pretrain", PretrainConfig, lambda config, folder: pytest.fail("the run was started"))
        assert ended.value.code == 2
        assert list(tmp_path.iterdir()) == []
        printed = capsys.readouterr()
        return printed.out + printed.err

    yield call
    os.umask(umask)


@pytest.mark.parametrize(
    "arguments",
    [
        [f"+hydra.callbacks.x={TOUCH}"],
        ["hydra.sweeper._target_=webdataset.gopen", "+hydra.sweeper.url='pipe:touch canary'", "-m"],
        ["hydra.launcher._target_=webdataset.gopen", "+hydra.launcher.url='pipe:touch canary'", "-m", "seed=1,2"],
        ["hydra/launcher=evil", "-m"],
        [f"+hydra.job_logging.handlers.x={HANDLER}"],
        [f"+hydra.hydra_logging.handlers.x={HANDLER}", "--cfg", "job"],
        ["+model@hydra.callbacks.x=swinv2_t"],
        ["hydra.searchpath=[file:///tmp]"],
        ["hydra.job.env_set={LD_PRELOAD:evil.so}"],
        [f"+hydra.callbacks.x={TOUCH}", "--help"],
    ],
)
def test_settings_of_hydra_that_name_code_are_refused(knock, arguments):
    assert "Hydra's own settings can name code to run" in knock(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config-path", "/tmp", "-m"],
        ["--config-name=evil", "--config-dir=/tmp"],
        ["-cp", "/tmp"],
        ["--config-d", "/tmp"],  # argparse would complete it
        ["--experimental-rerun", "config.pickle"],
    ],
)
def test_flags_that_read_configs_from_elsewhere_are_refused(knock, arguments):
    assert f"the flag {arguments[0].partition('=')[0]} is not accepted" in knock(*arguments)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (f"+x={TOUCH}", "unknown key 'x'"),
        ("model._target_=webdataset.gopen", "unknown key 'model._target_'"),
        (f"optim.base_lr={TOUCH}", "optim.base_lr: Input should be a valid number"),
        (f"model={TOUCH}", "unknown model"),
        (f"++data.path={TOUCH}", r"\+data\.path: data\.path is there already"),
    ],
)
def test_targets_in_our_own_settings_are_no_settings(knock, override, message):
    assert re.search(message, knock(override))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"hydra:\n  callbacks:\n    x: {TOUCH}", "a config file sets 'hydra.callbacks.x"),
        (
            f"hydra:\n  job_logging:\n    handlers:\n      x: {HANDLER}",
            "a config file sets 'hydra.job_logging.handlers",
        ),
        ("hydra:\n  job:\n    env_set: {LD_PRELOAD: evil.so}", "'hydra.job.env_set'"),
        ("data:\n  path: https://user:very-secret@host/set", "data.path: a URL with a password"),
    ],
)
@pytest.mark.parametrize(
    "arguments",
    [
        ["experiment=evil"],
        ["experiment=evil", "-m", "seed=1,2"],
        ["-m", "experiment=demo,evil"],
        ["experiment=evil", "--help"],
    ],
)
def test_hostile_experiment_files_are_refused(knock, evil, content, message, arguments):
    printed = knock(*evil(content), *arguments)
    assert message in printed
    assert "very-secret" not in printed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"model: {TOUCH}", "unknown key 'model._target_'"),
        ("data:\n  path: ${oc.env:SOME_TOKEN}", "data.path: ${oc.env:SOME_TOKEN} is not accepted"),
    ],
)
def test_experiment_files_with_targets_and_secrets_do_not_load(knock, evil, monkeypatch, content, message):
    monkeypatch.setenv("SOME_TOKEN", "very-secret")
    printed = knock(*evil(content), "experiment=evil")
    assert message in printed
    assert "very-secret" not in printed


@pytest.fixture
def evil(tmp_path_factory):
    """Write experiment/evil.yaml into a conf directory of its own; gives the arguments that name the directory."""

    def write(content: str) -> list[str]:
        conf = tmp_path_factory.mktemp("made")
        (conf / "experiment").mkdir()
        (conf / "experiment" / "evil.yaml").write_text(f"# @package _global_\n{content}\n")
        return ["--config-dir", str(conf)]

    return write


@pytest.mark.parametrize("name", ["hydra/launcher/basic", "hydra/launcher/evil", "hydra/config"])
def test_a_conf_directory_with_settings_of_hydra_is_refused(knock, tmp_path_factory, name):
    conf = tmp_path_factory.mktemp("made")
    path = conf / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(f"# @package _global_\nhydra:\n  callbacks:\n    x: {TOUCH}\n")
    for flags in ([], ["-m"], ["--help"]):
        assert "hydra: Hydra's own settings can name code to run" in knock("--config-dir", str(conf), *flags)


def test_a_conf_directory_cannot_replace_the_root_config(knock, evil):
    flags = evil("data:\n  path: ???")
    (Path(flags[1]) / "pretrain.yaml").write_text(f"hydra:\n  callbacks:\n    x: {TOUCH}\n")
    assert "data.path: a value is required" in knock(*flags, "experiment=evil")


def test_files_that_move_the_search_path_are_refused(knock, evil):
    assert "hydra.searchpath" in knock(*evil("hydra:\n  searchpath: [file:///tmp]"), "experiment=evil")


@pytest.mark.parametrize(
    "url",
    [
        "https://user:very-secret@host/set",
        "s3://key:very-secret@bucket/set",
        "'https://h/a.tar?X-Amz-Signature=very-secret'",
    ],
)
@pytest.mark.parametrize("flags", [[], ["-m"]])
def test_passwords_in_urls_are_refused_and_not_repeated(knock, url, flags):
    printed = knock(f"data.path={url}", *flags)
    assert "a URL with a password in it" in printed
    assert "very-secret" not in printed


def test_unreadable_arguments_with_passwords_are_not_repeated(knock):
    assert "very-secret" not in knock("data.path=https://h/?token=very-secret=")


@pytest.mark.parametrize(
    "text",
    ["https://host/set", "hf://datasets/me/set@main/x", "s3://bucket/a/{000..123}.tar", "me@host:dir", "/a/b?c=d"],
)
def test_other_addresses_hold_no_password(text):
    assert not holds_password(text)


def test_arguments_of_flags_are_no_overrides():
    found = split_arguments(["-c", "job", "seed=1", "--cfg=hydra", "-m", "--config-dir", "conf"])
    assert found == (["-c", "--cfg", "-m"], ["seed=1"], Path("conf").absolute(), [])


def test_what_lightning_gives_its_children_is_accepted(monkeypatch):
    monkeypatch.setenv(door.STARTED, "x")
    child = ['hydra.run.dir="/a b/c"', "hydra.job.name=train_ddp_process_1", "hydra.output_subdir=null"]
    assert check("pretrain", PretrainConfig, ["data.path=x", *child]).data.path == "x"


def test_umask_is_only_ever_tightened(tmp_path):
    before = os.umask(0o022)
    try:
        for given, mode in ((0o022, 0o640), (0o077, 0o600), (0o002, 0o640)):
            os.umask(given)
            tighten_umask()
            file = tmp_path / f"{given:o}"
            file.write_text("x")
            assert stat.S_IMODE(file.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_interpolation_that_leads_nowhere_is_one_of_the_problems():
    with pytest.raises(ConfigError, match=r"ckpt: Interpolation key 'nope' not found"):
        check("pretrain", PretrainConfig, ["ckpt=${nope}", "data.path=x"])
