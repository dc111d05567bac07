"""The config door: every problem at once, the nearest key, no stack trace."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from finetune.config import FinetuneConfig
from finetune.model import build_encoder
from pretrain.config import PretrainConfig
from pretrain.run import build_model
from swinmim import door
from swinmim.composition import check
from swinmim.config import CONF_DIR, ModelConfig, config_errors, load, schema
from swinmim.errors import ConfigError, UserError
from swinmim.memory import GIB, training_bytes
from swinmim.models.architecture import get_architecture
from swinmim.training.execute import num_parameters

EXPERIMENTS = sorted(path.stem for path in (CONF_DIR / "experiment").glob("*.yaml"))
FINETUNE = [
    name for name in EXPERIMENTS if "python -m finetune" in (CONF_DIR / "experiment" / f"{name}.yaml").read_text()
]
PRETRAIN = [name for name in EXPERIMENTS if name not in FINETUNE]
ENCODER_MILLIONS = {"t": 27.58, "s": 48.96, "b": 86.89, "l": 195.20, "h": 655.22, "g": 2997.84}


@pytest.fixture(autouse=True)
def started(monkeypatch):
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")


def compose_pretrain(*overrides: str) -> PretrainConfig:
    return check("pretrain", PretrainConfig, overrides)


def test_family_is_complete():
    assert {f"swinv2_{size}_mim" for size in "tsblhg"} <= set(PRETRAIN)
    assert {f"swinv2_{size}_ft_{side}" for size in "bl" for side in (224, 256, 384)} | {"swinv2_g_ft_640"} <= set(
        FINETUNE
    )


@pytest.mark.parametrize("name", PRETRAIN)
def test_pretraining_experiment_composes_and_builds(name):
    config = compose_pretrain(f"experiment={name}", "data.path=images")
    with torch.device("meta"):
        model = build_model(config)
    size = name.removeprefix("swinv2_").removesuffix("_mim")
    if size in ENCODER_MILLIONS:
        assert num_parameters(model.encoder) / 1e6 == pytest.approx(ENCODER_MILLIONS[size], abs=0.02)


@pytest.mark.parametrize("name", FINETUNE)
def test_fine_tuning_experiment_composes_and_builds(name):
    size = name.split("_")[1]
    model = f"swinv2_{size}" if name.startswith("swinv2") else "swinv2_demo"
    config = check(
        "finetune", FinetuneConfig, [f"experiment={name}", "data.path=images", "ckpt=null", f"model={model}"]
    )
    with torch.device("meta"):
        encoder = build_encoder(config)
    assert encoder.resolution == (config.resolution, config.resolution)
    assert encoder.architecture == get_architecture(model)


def test_toy_keeps_the_depths_of_g():
    config = compose_pretrain("experiment=swinv2_g_mim", "debug=toy")
    model = build_model(config)
    assert model.encoder.architecture.depths == (2, 2, 42, 4)
    assert model.encoder.architecture.extra_norms == 7
    assert num_parameters(model) < 5e6


@pytest.mark.parametrize("name", FINETUNE)
def test_toy_works_for_fine_tuning_recipes(name):
    config = check("finetune", FinetuneConfig, [f"experiment={name}", "debug=toy"])
    assert (config.ckpt, config.data.path, config.trainer.max_steps) == (None, "builtin:digits", 8)
    assert config.model == ModelConfig(name="swinv2_t", embed_dim=16, head_dim=8)
    chosen = check("finetune", FinetuneConfig, [f"experiment={name}", "debug=toy", "model=swinv2_b"])
    assert chosen.model == ModelConfig(name="swinv2_b", embed_dim=16, head_dim=8)
    with torch.device("meta"):
        assert build_encoder(chosen).architecture.depths == (2, 2, 18, 2)


def test_all_problems_come_at_once_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        compose_pretrain(
            "experiment=swinv2_b_mm",
            "model=swinv2_x",
            "optim.base_lrr=3",
            "trainer.max_epochs=ten",
            "+extra=1",
            "seed=1.5",
        )
    text = str(caught.value)
    assert "unknown experiment 'swinv2_b_mm'. Did you mean 'swinv2_b_mim'?" in text
    assert "unknown model 'swinv2_x'. Did you mean 'swinv2_t'?" in text
    assert "unknown key 'optim.base_lrr'. Did you mean 'optim.base_lr'?" in text
    assert "trainer.max_epochs: Input should be a valid integer" in text
    assert "got 'ten'" in text
    assert "unknown key 'extra'" in text
    assert "seed: Input should be a valid integer" in text


def test_experiment_of_the_other_command_is_refused():
    with pytest.raises(ConfigError, match=r"It belongs to: python -m finetune experiment=swinv2_b_ft_224"):
        compose_pretrain("experiment=swinv2_b_ft_224", "data.path=x")
    with pytest.raises(ConfigError, match=r"unknown experiment 'demo'\. It belongs to: python -m pretrain"):
        check("finetune", FinetuneConfig, ["experiment=demo", "ckpt=x", "data.path=x"])


def test_missing_values_say_what_they_want():
    with pytest.raises(ConfigError) as caught:
        check("finetune", FinetuneConfig, [])
    assert "ckpt: a value is required: a run directory or an encoder folder, or null" in str(caught.value)
    assert "data.path: a value is required" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("ckpt=null", "data.path=x"), "ckpt=null trains from scratch and needs an architecture"),
        (("ckpt=x", "model=swinv2_b", "data.path=x"), "model has no effect with ckpt"),
        (
            ("ckpt=x", "data.path=x", "schedule.warmup_steps=3", "schedule.warmup_epochs=1"),
            "give at most one of warmup_epochs",
        ),
    ],
)
def test_settings_without_effect_are_errors(overrides, message):
    with pytest.raises(ConfigError, match=message):
        check("finetune", FinetuneConfig, overrides)


def test_unions_and_nested_errors_are_named_by_their_key():
    @schema
    class Inner:
        size: int | tuple[int, int]

    @schema
    class Outer:
        inner: Inner

    assert load(Outer, OmegaConf.create({"inner": {"size": [1, 2]}})).inner.size == (1, 2)
    with pytest.raises(ConfigError, match=r"inner\.size: .*; or "):
        load(Outer, OmegaConf.create({"inner": {"size": "big"}}))
    with pytest.raises(ConfigError, match=r"unknown key 'inner\.sise'\. Did you mean 'size'"):
        load(Outer, OmegaConf.create({"inner": {"size": 1, "sise": 2}}))


def test_resolution_that_does_not_fit_lists_the_nearest():
    config = compose_pretrain("experiment=swinv2_t_mim", "data.path=x", "resolution=200")
    with pytest.raises(ConfigError, match=r"192.*224"), torch.device("meta"):
        build_model(config)


def test_memory_needed_by_g_is_the_papers():
    assert training_bytes(2_997_844_000) / 1e9 == pytest.approx(48, abs=0.1)  # "48 GB" in SwinV2, section 3.5
    assert training_bytes(2_997_844_000) / GIB == pytest.approx(44.7, abs=0.1)


def test_an_error_of_torch_is_no_mistake_of_the_user():
    with pytest.raises(ValueError, match="optimizer got an empty parameter list") as caught, config_errors():
        torch.optim.AdamW([])
    assert not isinstance(caught.value, UserError)
    with pytest.raises(ConfigError, match=r"Unknown model 'swinv2_tt'\. Did you mean 'swinv2_t'"), config_errors():
        get_architecture("swinv2_tt")


@pytest.fixture
def own_conf(tmp_path):
    """A conf directory of the user: experiments without a header, with one, and two mistakes."""
    folder = tmp_path / "it's my conf" / "experiment"
    folder.mkdir(parents=True)
    for name, text in {
        "mine": "resolution: 64",
        "tuned": "#command: python -m finetune experiment=tuned ckpt=RUN\nresolution: 96",
        "demo": "resolution: 64",
    }.items():
        (folder / f"{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    (folder / "below.yaml").write_text("resolution: 64\n")
    return folder.parent


def test_experiments_of_ones_own(own_conf):
    with_mine = ["experiment=mine", "data.path=x"]
    assert check("pretrain", PretrainConfig, with_mine, config_dir=own_conf).resolution == 64
    fine = check("finetune", FinetuneConfig, [*with_mine, "ckpt=RUN"], config_dir=own_conf)
    assert fine.resolution == 64
    tuned = ["experiment=tuned", "data.path=x", "ckpt=RUN"]
    assert check("finetune", FinetuneConfig, tuned, config_dir=own_conf).resolution == 96


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mien",
            r"unknown experiment 'mien'\. Did you mean 'mine'\? Known: cifar10_mim, .*swinv2_t_mim, below, .*mine\.",
        ),
        ("tuned", "It belongs to: python -m finetune experiment=tuned ckpt=RUN"),
        ("below", r"the file of experiment=below must begin with the line '# @package _global_'\.$"),
        ("demo", r"demo\.yaml would not be read: the program has its own experiment=demo\. Give it another name"),
    ],
)
def test_mistakes_in_a_conf_directory_of_ones_own(own_conf, name, message):
    with pytest.raises(ConfigError, match=message):
        check("pretrain", PretrainConfig, [f"experiment={name}", "data.path=x"], config_dir=own_conf)


def test_a_conf_directory_without_groups_is_named(own_conf):
    with pytest.raises(ConfigError, match=r"nowhere is no directory\. Your file belongs to DIR/experiment/NAME\.yaml"):
        check("pretrain", PretrainConfig, ["data.path=x"], config_dir=own_conf / "nowhere")
    with pytest.raises(ConfigError, match="holds none of the folders augment, callbacks, data, debug, experiment"):
        check("pretrain", PretrainConfig, ["data.path=x"], config_dir=own_conf / "experiment")


def cli(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_command_line_mistakes_exit_2_without_a_stack_trace(tmp_path):
    result = cli("pretrain", "experiment=swinv2_g_mm", "trainer.max_epoch=3", cwd=tmp_path)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "Did you mean 'swinv2_g_mim'?" in result.stderr
    assert "Did you mean 'trainer.max_epochs'?" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_cfg_job_prints_the_recipe_of_g(tmp_path):
    result = cli("pretrain", "experiment=swinv2_g_mim", "--cfg", "job", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "warmup_share: 0.1975" in result.stdout
    assert "global_batch_size: 9216" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("door", ["pretrain", "finetune"])
def test_both_doors_take_a_conf_directory_from_anywhere(own_conf, door):
    flags = ["--config-dir", own_conf.name, "experiment=mine", "--cfg", "job"]
    result = cli(door, *flags, cwd=own_conf.parent)
    assert result.returncode == 0, result.stderr
    assert "resolution: 64" in result.stdout


@pytest.mark.slow
def test_output_directory_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("keep")
    result = cli("pretrain", "output_dir=run", cwd=tmp_path)
    assert result.returncode == 2
    assert "output_dir=run is not empty (it holds precious.txt). Add resume=auto" in result.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["precious.txt"]


@pytest.mark.slow
def test_model_that_does_not_fit_stops_before_allocating(tmp_path, monkeypatch):
    monkeypatch.setattr("swinmim.training.trainer.host_memory", lambda: 8 * GIB)
    from swinmim.training.settings import StrategyConfig, TrainerConfig, ZeroConfig
    from swinmim.training.trainer import check_memory

    single = StrategyConfig(kind="single")
    with pytest.raises(ConfigError, match=r"3,000M parameters need 44\.7 GiB .* has 8\.0 GiB\. .* debug=toy"):
        check_memory(3_000_000_000, TrainerConfig(max_epochs=1, accelerator="cpu"), single)
    check_memory(1_000_000, TrainerConfig(max_epochs=1, accelerator="cpu"), single)
    sixteen = TrainerConfig(max_epochs=1, accelerator="cpu", devices=8, num_nodes=2)
    check_memory(3_000_000_000, sixteen, StrategyConfig(kind="deepspeed", zero=ZeroConfig(stage=3)))


def test_a_value_out_of_range_hides_no_other_mistake_of_its_group():
    with pytest.raises(ConfigError) as raised:
        check("pretrain", PretrainConfig, ["data.path=x", "augment.scale=5", "augment.ratio=[0,1]"])
    assert "augment.ratio.0: " in str(raised.value)
    assert "augment.scale: " in str(raised.value)
