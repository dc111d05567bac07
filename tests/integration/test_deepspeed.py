"""DeepSpeed on two CPU processes: the same losses as DDP, exact resume, any number of ranks, nothing unpickled.

All runs of a world size share one pair of processes: see tests/support/zero_worker.py.
"""

import csv
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from pretrain.config import PretrainConfig
from swinmim.checkpoint import io, zero
from swinmim.checkpoint.encoder import load_encoder
from swinmim.composition import check
from swinmim.errors import CheckpointError, ConfigError
from swinmim.training.settings import StrategyConfig, ZeroConfig
from swinmim.training.strategies.build import build_strategy
from swinmim.training.strategies.zero import deepspeed_config

HARD = (  # accumulation, clipping that bites, layer-wise rates, autocast and recomputation at once
    "batch_size=8",
    "optim.clip_grad_norm=0.5",
    "optim.layer_decay=0.9",
    "trainer.precision=bf16-mixed",
    "recompute=selective",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("zero")


@pytest.fixture(scope="module")
def job(root, images):
    """Arguments of one small pretraining run of four steps, in a folder named after it."""
    small = ("trainer.accelerator=cpu", "trainer.precision=32-true", "data.num_workers=0", "trainer.log_every_steps=1")
    model = ("model.embed_dim=32", "model.head_dim=16", "global_batch_size=32", "batch_size=16")
    steps = ("trainer.max_epochs=1", "trainer.max_steps=4", "trainer.val_every_epochs=1", "schedule.warmup_epochs=0.2")
    saves = ("callbacks.checkpoint.every_steps=2", "callbacks.checkpoint.keep_last=9")
    data = (f"data.cache_dir={root / 'cache'}", f"data.path={images}", "callbacks.reconstructions.num_images=2")

    def arguments(name: str, strategy: str, *overrides: str, world_size: int = 2) -> list[str]:
        where = (f"output_dir={root / name}", f"strategy={strategy}", f"trainer.devices={world_size}")
        return ["pretrain", *small, *model, *steps, *saves, *data, *where, *overrides]

    return arguments


@pytest.fixture(scope="module")
def two_ranks(root, job, images):
    """All runs of the fast tests."""
    jobs = [job("ddp", "ddp"), job("hard_ddp", "ddp", *HARD)]
    for stage in (1, 2, 3):
        strategy = f"deepspeed_zero{stage}"
        step = io.step_folder(root / strategy / "checkpoints", 2)
        jobs.append(job(strategy, strategy))
        jobs.append(job(f"resumed_{stage}", strategy, f"resume={step}"))
        jobs.append(job(f"hard_{stage}", strategy, *HARD))
    first = root / "deepspeed_zero3"
    jobs.append(job("other_stage", "deepspeed_zero1", f"resume={first}"))
    jobs.append(job("other_strategy", "deepspeed_zero1", f"resume={root / 'ddp'}"))
    jobs.append(job("from_ddp", "deepspeed_zero3", f"ckpt={first}", "recompute=full"))
    jobs.append(job("from_zero", "ddp", f"ckpt={first}"))
    toy = ("experiment=swinv2_g_mim", "debug=toy", "trainer.max_steps=3", "recompute=full")
    where = (f"output_dir={root / 'toy_g'}", f"data.cache_dir={root / 'cache'}", "trainer.accelerator=cpu")
    jobs.append(
        ["pretrain", *toy, *where, "strategy=deepspeed_zero3", "trainer.devices=2", "trainer.precision=32-true"]
    )
    tune = ("experiment=demo_ft", f"ckpt={first}", f"data.path={images}", f"data.cache_dir={root / 'cache'}")
    tune += ("trainer.accelerator=cpu", "trainer.precision=32-true", "data.num_workers=0", "trainer.devices=2")
    tune += ("trainer.max_epochs=1", "schedule.warmup_epochs=0.2", "data.labels_per_class=null", "global_batch_size=16")
    tune += ("batch_size=8", "trainer.log_every_steps=1", "trainer.val_every_epochs=1")
    for strategy in ("ddp", "deepspeed_zero3"):
        jobs.append(["finetune", *tune, f"output_dir={root / f'tuned_{strategy}'}", f"strategy={strategy}"])
    run_ranks(jobs, 2, root / "two_ranks")
    return root


def rows(run: Path) -> list[tuple[float, float]]:
    """Loss of rank 0 and gradient norm of all ranks, per step."""
    assert not list(run.glob("error_*")), [path.read_text() for path in run.glob("error_*")]
    found = []
    for path in sorted(run.glob("metrics/version_*/metrics.csv")):
        with path.open() as file:
            found += [
                (float(row["train/loss"]), float(row["train/grad_norm"]))
                for row in csv.DictReader(file)
                if row["train/loss"]
            ]
    return found


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_encoder(run).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_losses_gradients_and_weights_are_those_of_ddp(two_ranks, stage):
    run = two_ranks / f"deepspeed_zero{stage}"
    assert len(rows(run)) == 4
    for ours, ddp in zip(rows(run), rows(two_ranks / "ddp"), strict=True):
        assert ours == pytest.approx(ddp, rel=1e-6)
    ddp_weights = weights(two_ranks / "ddp")
    for name, tensor in weights(run).items():
        assert torch.allclose(tensor, ddp_weights[name], atol=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_so_are_they_with_accumulation_clipping_layer_rates_autocast_and_recomputation(two_ranks, stage):
    run = rows(two_ranks / f"hard_{stage}")
    ddp = rows(two_ranks / "hard_ddp")
    assert len(run) == 4
    assert max(norm for _, norm in ddp) > 0.5  # the clipping bites
    # sums in another order change single bf16 roundings from the second step on
    assert run[0] == pytest.approx(ddp[0], rel=1e-5)
    for ours, theirs in zip(run, ddp, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_resumed_run_equals_the_uninterrupted_one(two_ranks, stage):
    assert rows(two_ranks / f"resumed_{stage}") == rows(two_ranks / f"deepspeed_zero{stage}")[2:]
    whole = weights(two_ranks / f"deepspeed_zero{stage}")
    for name, tensor in weights(two_ranks / f"resumed_{stage}").items():
        assert torch.equal(tensor, whole[name]), name


@pytest.mark.slow
def test_the_depths_of_g_train_partitioned(two_ranks):
    assert len(rows(two_ranks / "toy_g")) == 3
    encoder = load_encoder(two_ranks / "toy_g")
    assert encoder.architecture.depths == (2, 2, 42, 4)
    drawn = dict(load_encoder(two_ranks / "toy_g").named_parameters())
    assert drawn["layers.2.blocks.40.norm1.weight"].abs().max() > 0  # began at zero: the block has learned


@pytest.mark.slow
def test_weights_go_from_zero_to_ddp_and_back(two_ranks):
    assert rows(two_ranks / "from_ddp")[0] == pytest.approx(rows(two_ranks / "from_zero")[0], rel=1e-6)
    tuned = rows(two_ranks / "tuned_deepspeed_zero3")
    assert len(tuned) > 4
    for ours, ddp in zip(tuned, rows(two_ranks / "tuned_ddp"), strict=True):
        assert ours == pytest.approx(ddp, rel=1e-4)


@pytest.mark.slow
def test_other_stage_or_strategy_at_a_resume_is_refused(two_ranks):
    message = (two_ranks / "other_stage" / "error_0.txt").read_text()
    assert "was written at ZeRO stage 3, this run asks for stage 1. Take strategy=deepspeed_zero3" in message
    assert "was not written by DeepSpeed" in (two_ranks / "other_strategy" / "error_0.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_an_encoder_folder_comes_out_of_the_parts_of_the_ranks(two_ranks, tmp_path, stage, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    step = io.find(two_ranks / f"deepspeed_zero{stage}")
    zero.to_encoder_folder(step, tmp_path / "encoder")
    written = load_encoder(tmp_path / "encoder").state_dict()
    for name, tensor in weights(two_ranks / f"deepspeed_zero{stage}").items():
        assert torch.equal(tensor, written[name]), name
    shutil.copytree(step, tmp_path / "step", symlinks=True)
    shutil.rmtree(tmp_path / "step" / "encoder")
    with pytest.raises(CheckpointError):
        zero.to_encoder_folder(tmp_path / "step", tmp_path / "other")
    assert zero.to_encoder_folder(tmp_path / "step", tmp_path / "other", like=tmp_path / "encoder").is_dir()


class Canary:
    """Writes a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["*rank_0_mp_rank_00_optim_states.pt", "*_model_states.pt"])
@pytest.mark.parametrize("overruled", [False, True])
def test_a_hostile_pickle_among_the_parts_is_refused_and_does_not_run(
    two_ranks, tmp_path, pattern, overruled, monkeypatch
):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    if overruled:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    step = tmp_path / "step"
    shutil.copytree(io.find(two_ranks / "deepspeed_zero2"), step)
    victim = next((step / io.STATE / zero.TAG).glob(pattern))
    torch.save({"optimizer_state_dict": Canary(tmp_path / "canary")}, victim, pickle_module=pickle)
    for convert in (lambda: zero.to_encoder_folder(step, tmp_path / "out"), lambda: zero.to_universal(step / io.STATE)):
        with pytest.raises(CheckpointError, match="loading it could run code"):
            convert()
    assert not (tmp_path / "canary").exists()


@pytest.mark.reliability
@pytest.mark.slow
def test_universal_form_resumes_on_fewer_and_more_ranks(two_ranks, root, job, monkeypatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    one, two = [], []
    for stage in (1, 2, 3):
        strategy = f"deepspeed_zero{stage}"
        step = io.step_folder(two_ranks / strategy / "checkpoints", 2)
        options = {"world_size": 1}
        one.append(job(f"refused_{stage}", strategy, f"resume={io.find(two_ranks / strategy)}", **options))
        one.append(job(f"alone_{stage}", strategy, **options))
        one.append(job(f"fewer_{stage}", strategy, f"resume={step}", **options))
        zero.to_universal(step / io.STATE)
    run_ranks(one, 1, root / "one_rank")
    for stage in (1, 2, 3):
        assert "convert_zero.py" in (root / f"refused_{stage}" / "error_0.txt").read_text()
        step = io.step_folder(root / f"alone_{stage}" / "checkpoints", 2)
        zero.to_universal(step / io.STATE)
        two.append(job(f"more_{stage}", f"deepspeed_zero{stage}", f"resume={step}"))
    run_ranks(two, 2, root / "two_again")
    for stage in (1, 2, 3):
        for ours, whole in zip(rows(root / f"fewer_{stage}"), rows(root / f"alone_{stage}")[2:], strict=True):
            assert ours == pytest.approx(whole, rel=1e-6)
        whole = rows(two_ranks / f"deepspeed_zero{stage}")[2:]
        for ours, theirs in zip(rows(root / f"more_{stage}"), whole, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.reliability
@pytest.mark.slow
def test_offloaded_states_give_the_same_losses(two_ranks, root, job):
    run_ranks([job("offload", "deepspeed_zero3_offload")], 2, root / "offload_ranks")
    for ours, ddp in zip(rows(root / "offload"), rows(two_ranks / "ddp"), strict=True):
        assert ours == pytest.approx(ddp, rel=1e-6)


def test_strategy_settings_become_deepspeeds():
    config = deepspeed_config(ZeroConfig(stage=3, offload=True), bf16=True, batch_size=4)
    assert config["zero_optimization"]["stage"] == 3
    assert config["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert config["torch_autocast"] == {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    assert config["train_micro_batch_size_per_gpu"] == 4
    with pytest.raises(ValueError, match="offload is for stage 3, got stage=2"):
        ZeroConfig(stage=2, offload=True)
    with pytest.raises(ValueError, match="belong to kind=deepspeed"):
        StrategyConfig(kind="ddp", zero=ZeroConfig(stage=1))


def test_compile_under_deepspeed_is_refused():
    with pytest.raises(ConfigError, match="compile=true does not work under DeepSpeed"):
        check("pretrain", PretrainConfig, ["experiment=demo", "strategy=deepspeed_zero2", "compile=true"])


def test_deepspeed_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr(zero, "is_installed", lambda: False)
    config = StrategyConfig(kind="deepspeed", zero=ZeroConfig(stage=1))
    with pytest.raises(ConfigError, match=r"pip install 'swinmim\[deepspeed\]'"):
        build_strategy(config, device=torch.device("cpu"), bf16=False, batch_size=1)


def test_a_checkpoint_of_another_kind_is_not_taken_for_deepspeeds(tmp_path):
    (tmp_path / "state.ckpt").touch()
    with pytest.raises(CheckpointError, match="was not written by DeepSpeed"):
        zero.inspect(tmp_path / "state.ckpt")
    folder = tmp_path / "other" / zero.TAG
    folder.mkdir(parents=True)
    (folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").touch()
    with pytest.raises(CheckpointError, match=r"lacks the optimizer files of some ranks \(it has those of \[1\]\)"):
        zero.inspect(folder.parent)
