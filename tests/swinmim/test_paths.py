"""Paths on command lines."""

import shlex
import subprocess
import sys

import pytest
from commands import environment
from hydra.core.override_parser.types import Quote, QuotedString
from made_images import make_folder
from runs import TINY

from data.config import MixConfig
from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from swinmim.composition import check
from swinmim.errors import ConfigError
from swinmim.paths import literal_paths, shell_quoted

NAMES = [
    "ünïcødé 日本", "a b", " ", "[x]{y}", "a&b", "a,b=c", "~tilde", "it's", 'q"uo', "$HOME", "(p)", "#h", "%41",
    "back\\",
    "\\'", "a;b", "-m", "star*?", "new\nline", "é|<>!@^`", "a::b", "2024", "true", "1e3", "none", "?",
    "https://host/a?b=c&d=[e]", "{000..12}.tar",
]  # fmt: skip
KEYS = ("data.path", "output_dir", "ckpt", "data.cache_dir")
ALL = "ünï 日本 [x]{y}&a,b=c~it's\"q$HOME(p)#%41;*?<>|!@^`\\n::z"


@pytest.mark.parametrize("names", [tuple(NAMES[n : n + 4]) for n in range(0, len(NAMES), 4)])
def test_every_name_arrives_as_it_was_typed(names):
    line = [f"{key}={name}" for key, name in zip(KEYS, names, strict=True)]
    config = check("pretrain", PretrainConfig, literal_paths(line))
    assert (config.data.path, config.output_dir, config.ckpt, config.data.cache_dir) == names
    assert literal_paths(literal_paths(line)) == literal_paths(line)  # processes that Lightning starts read it again
    assert literal_paths(line) == [
        f"{k}={QuotedString(n, Quote.single).with_quotes()}" for k, n in zip(KEYS, names, strict=True)
    ]


def test_home_and_references(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SWINMIM_STARTED", "now")
    assert literal_paths(["data.path=~/a b"]) == [f"data.path='{tmp_path}/a b'"]
    line = ["data.path=x", "output_dir=runs/${seed}"]
    assert check("pretrain", PretrainConfig, literal_paths(line)).output_dir == "runs/0"
    (tmp_path / "${seed}").mkdir()
    line = ["output_dir=out", f"data.path={tmp_path}/${{seed}}"]
    assert check("pretrain", PretrainConfig, literal_paths(line)).data.path == f"{tmp_path}/${{seed}}"


def test_what_is_no_path_is_left_alone():
    line = ["ckpt=null", "optim.base_lr=1e-3,2e-3", "data.path='a,b'", "--cfg", "job", "+data.path=a b"]
    assert literal_paths(line) == line


def test_commas_divide_in_a_sweep():
    assert literal_paths(["-m", "data.path=a b,ä"]) == ["-m", "data.path='a b','ä'"]
    for typed in ("data.path=glob(*)", "data.path='a,b',c"):
        assert literal_paths(["--multirun", typed]) == ["--multirun", typed]


@pytest.mark.parametrize("key", ["data.path", "output_dir", "ckpt", "resume", "data.cache_dir"])
def test_an_empty_path_is_refused(key):
    with pytest.raises(ConfigError, match=f"{key.rpartition('.')[2]} is empty"):
        check("pretrain", PretrainConfig, literal_paths(["output_dir=out", "data.path=x", f"{key}="]))


def test_an_empty_second_path_is_refused():
    with pytest.raises(ConfigError, match="val_path is empty"):
        check("finetune", FinetuneConfig, literal_paths(["output_dir=out", "ckpt=x", "data.path=x", "data.val_path="]))
    with pytest.raises(ValueError, match="path is empty"):
        MixConfig(path="", weight=1)


@pytest.mark.parametrize("name", NAMES)
def test_a_shell_gives_back_what_was_quoted(name):
    assert shlex.split(f"ckpt={shell_quoted(name)}") == [f"ckpt={name}"]


@pytest.mark.slow
def test_a_run_in_a_directory_of_any_name(tmp_path):
    source = make_folder(tmp_path / f"images {ALL}", 40)
    output = tmp_path / f"out {ALL}"
    paths = (f"data.path={source}", f"output_dir={output}", f"data.cache_dir={tmp_path}")
    line = [sys.executable, "-m", "pretrain", *TINY, *paths]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    assert (output / "encoder" / "manifest.json").is_file()
    following = next(text for text in done.stdout.splitlines() if text.startswith("next "))
    assert f"ckpt={output}" in shlex.split(following)
