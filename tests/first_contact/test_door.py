"""Mistakes that are answered at the door, before torch is imported: words, exit code 2, no trace, nothing left."""

import os
import shlex
import sys

import pytest

from finetune.apply.config import EmbedConfig, EvaluateConfig, PredictConfig
from finetune.config import FinetuneConfig
from pretrain.config import PretrainConfig
from swinmim import door

SCHEMAS = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "embed": EmbedConfig,
}
TUNE = "finetune ckpt=x data.path=x"

MISTAKES = {
    # how a command line is written
    "pretrain seed": "cannot read 'seed'",
    "pretrain =3": "'=3' names no setting. Write key=value",
    "pretrain experiment=swinv2_g_mim,": "cannot read 'experiment=swinv2_g_mim,'",
    "pretrain --nope": "the flag --nope is not accepted",
    "pretrain -x": "the flag -x is not accepted",
    "pretrain --resume": "settings come from conf/ and from key=value",
    "pretrain --config-dir=/nope": "/nope is no directory. Your file belongs to DIR/experiment/NAME.yaml",
    "pretrain --config-dir": "holds none of the folders augment, callbacks",
    "pretrain optim.base_lr=1e-4,2e-4": "several values start a run each, which -m asks for",
    "pretrain experiment=demo,swinv2_t_mim": "which -m asks for",
    "pretrain resolution=32,64": "One list is 'resolution=[32,64]'",
    "pretrain seed=range(1,4)": "which -m asks for",
    "pretrain -m experiment=demo,nope": "unknown experiment 'nope'",
    "pretrain hydra.verbose=true": "'hydra.verbose' cannot be set",
    # names
    "pretrain nope=1": "unknown key 'nope'. Legal keys: allow_drift",
    "pretrain resolutoin=32": "Did you mean 'resolution'?",
    "pretrain batchsize=3": "Did you mean 'batch_size'?",
    "pretrain max_epochs=3": "Did you mean 'trainer.max_epochs'?",
    "pretrain optim.bas_lr=1": "Did you mean 'optim.base_lr'?",
    "pretrain optim.lr=1e-3": "unknown key 'optim.lr'. Did you mean 'optim.base_lr'?",
    "pretrain logger.wandb.project=x": "unknown key 'logger.wandb.project'",
    "pretrain +nope=1": "unknown key 'nope': '+' cannot add keys",
    "pretrain +data.mix=[]": "data.mix is there already. Write it without '+'",
    "pretrain ++seed=1": "seed is there already. Write it without '+'",
    "finetune +task=classify ckpt=x data.path=x": "task is there already. Write it without '+': task=...",
    "pretrain ~optim.eps": "a setting cannot be removed. Write optim.eps=null",
    "pretrain ~model": "model: a value is required",
    "pretrain experiment=": "unknown experiment ''",
    "pretrain experiment=null": "to go without it, write ~experiment",
    "pretrain logger=null": "to go without it, write logger=none",
    "pretrain experiment=swinv2_g_mm": "Did you mean 'swinv2_g_mim'?",
    "pretrain experiment=swinv2_b_ft_224": "It belongs to: python -m finetune experiment=swinv2_b_ft_224",
    "finetune experiment=demo ckpt=x data.path=x": "It belongs to: python -m pretrain",
    "finetune model=null ckpt=x data.path=x": "it is off by default, leave it out",
    "finetune mim=simmim ckpt=x data.path=x": "finetune has no mim to choose. It has: callbacks",
    "pretrain task=classify": "pretrain has no task to choose",
    "pretrain model=resnet50": "unknown model 'resnet50'. Known: swinv2_b",
    "pretrain mim=simmim_v3": "Did you mean 'simmim_v2'?",
    "pretrain data=imagenet": "unknown data 'imagenet'. Known: digits, folder",
    "pretrain optim=sgd": "unknown optim 'sgd'. Known: adamw",
    "pretrain schedule=linear": "Known: cosine, multistep",
    "pretrain strategy=fsdp": "Known: ddp, deepspeed_zero1",
    "pretrain logger=tensorboard": "Known: csv, none, wandb",
    f"{TUNE} task=depth": "unknown task 'depth'",
    # what must be there
    "finetune data.path=x": "ckpt: a value is required: a run directory or an encoder folder",
    "finetune ckpt=x": "data.path: a value is required. Add data.path=...",
    "finetune ckpt=null data.path=x": "needs an architecture: add model=swinv2_b",
    "finetune ckpt=x model=swinv2_b data.path=x": "model has no effect with ckpt",
    "finetune ckpt=x debug=toy": "debug=toy brings one: there, remove ckpt=...",
    "pretrain data.path=": "path is empty, which would be the current directory",
    "pretrain output_dir=": "output_dir is empty",
    "pretrain output_dir=null": "output_dir: Input should be a valid string",
    "pretrain data.mix=[{path:x}]": "data.mix.0.weight: a value is required",
    "pretrain data.mix=[x]": "data.mix.0: Input should be a dictionary",
    # words and types
    "pretrain seed=": "seed: Input should be a valid integer",
    "pretrain seed=abc": "got 'abc'",
    "pretrain seed=1.5": "got 1.5",
    "pretrain resolution=[32,32,32]": "Tuple should have at most 2 items",
    "pretrain optim.betas=0.9": "optim.betas: Input should be a valid tuple",
    "pretrain optim.betas=[0.9]": "optim.betas.1: a value is required",
    "pretrain recompute=some": "recompute: Input should be 'none', 'selective' or 'full'",
    "pretrain attention=flash": "attention: Input should be 'auto', 'reference', 'sdpa' or 'chunked'",
    "pretrain compile=maybe": "compile: Input should be a valid boolean",
    "pretrain augment.flip=2": "augment.flip: Input should be a valid boolean",
    "pretrain data.decoder=gpu": "data.decoder: Input should be 'turbo' or 'pil'",
    "pretrain data.stats=zero": "data.stats: Input should be 'auto' or 'imagenet'",
    "pretrain data.num_workers=many": "data.num_workers: Input should be a valid integer",
    "pretrain mim.target=hog": "mim.target: Input should be 'raw' or 'local_norm'",
    "pretrain schedule.kind=linear": "schedule.kind: Input should be 'cosine' or 'multistep'",
    "pretrain trainer.accelerator=tpu": "trainer.accelerator: Input should be 'auto', 'cpu' or 'gpu'",
    "pretrain trainer.precision=fp16": "trainer.precision: Input should be 'auto', 'bf16-mixed' or '32-true'",
    "pretrain logger=wandb logger.wandb.mode=maybe": "logger.wandb.mode: Input should be 'online' or 'offline'",
    f"{TUNE} task.flip=2": "task.flip: Input should be a valid boolean",
    f"{TUNE} task.randaug=strong": "Take rand-m9-mstd0.5-inc1, or null for none",
    # ranges
    "pretrain resolution=0": "resolution: Input should be greater than or equal to 1; got 0",
    "pretrain resolution=-32": "got -32",
    "pretrain window=0": "window: Input should be greater than or equal to 1; got 0",
    "pretrain drop_path=1": "drop_path: Input should be less than 1; got 1",
    "pretrain drop_path=-0.1": "drop_path: Input should be greater than or equal to 0",
    "pretrain chunk=-1": "chunk: Input should be greater than or equal to 1; got -1",
    "pretrain global_batch_size=0": "global_batch_size: Input should be greater than or equal to 1",
    "pretrain batch_size=-4": "batch_size: Input should be greater than or equal to 1",
    "pretrain seed=-1": "seed: Input should be greater than or equal to 0",
    "pretrain seed=99999999999": "seed: Input should be less than 4294967296",
    "pretrain trainer.max_epochs=0": "trainer.max_epochs: Input should be greater than or equal to 1",
    "pretrain trainer.max_steps=0": "max_steps must be positive, or -1 for no limit; got 0",
    "pretrain trainer.devices=0": "trainer.devices: Input should be greater than or equal to 1",
    "pretrain trainer.val_every_epochs=0": "trainer.val_every_epochs: Input should be greater than or equal to 1",
    "pretrain trainer.log_every_steps=0": "trainer.log_every_steps: Input should be greater than or equal to 1",
    "pretrain callbacks.reconstructions.num_images=0": "num_images: Input should be greater than or equal to 1",
    "pretrain callbacks.reconstructions.bands=[0,1,7]": "bands are three of the channels 0 to 2, got [0, 1, 7]",
    "pretrain callbacks.checkpoint.keep_last=0": "keep_last: Input should be greater than or equal to 1",
    "pretrain callbacks.checkpoint.every_steps=0": "every_steps: Input should be greater than or equal to 1",
    "pretrain callbacks.checkpoint.keep_every_epochs=3": "keep_every_epochs must be a multiple of every_epochs=8",
    "pretrain callbacks.heartbeat.silence_s=0": "needs 1 <= silence_s <= stall_s",
    "pretrain callbacks.stability.spike_threshold=-1": "spike_threshold: Input should be greater than 0",
    "pretrain optim.betas=[0.9,1.5]": "optim.betas.1: Input should be less than 1; got 1.5",
    "pretrain optim.weight_decay=-1": "optim.weight_decay: Input should be greater than or equal to 0",
    "pretrain optim.eps=0": "optim.eps: Input should be greater than 0",
    "pretrain optim.base_lr=0": "base_lr must be positive",
    "pretrain optim.base_lr=nan": "optim.base_lr: Input should be a finite number",
    "pretrain optim.base_lr=inf": "got inf",
    "pretrain optim.clip_grad_norm=0": "clip_grad_norm must be positive",
    "pretrain optim.layer_decay=2": "layer_decay must lie in (0, 1], got 2.0",
    "pretrain schedule.min_lr=-1": "warmup_lr and min_lr are not negative",
    "pretrain schedule.gamma=2": "gamma lies in (0, 1]",
    "pretrain schedule.warmup_epochs=-1": "warmup_epochs and warmup_steps are not negative",
    "pretrain mim.mask_ratio=0": "mim.mask_ratio: Input should be greater than 0",
    "pretrain mim.mask_ratio=1": "mim.mask_ratio: Input should be less than 1",
    "pretrain mim.mask_unit=0": "mim.mask_unit: Input should be greater than or equal to 1",
    "pretrain augment.scale=[0,1]": "augment.scale.0: Input should be greater than 0",
    "pretrain augment.scale=[0.5,2]": "augment.scale.1: Input should be less than or equal to 1",
    "pretrain augment.scale=[1,0.5]": "augment: scale is [least, most], got [1.0, 0.5]",
    "pretrain augment.ratio=[2,1]": "augment: ratio is [least, most]",
    "pretrain model.in_chans=0": "model.in_chans: Input should be greater than or equal to 1",
    "pretrain model.embed_dim=-96": "model.embed_dim: Input should be greater than or equal to 1",
    "pretrain data.val_ratio=1": "val_ratio must lie between 0 and 1, got 1.0",
    "pretrain data.num_workers=-1": "num_workers must not be negative",
    "pretrain data.max_bad_fraction=2": "max_bad_fraction must lie between 0 and 1",
    "pretrain data.pack_resize=0": "data.pack_resize: Input should be greater than or equal to 1",
    "pretrain data.pack_quality=101": "data.pack_quality: Input should be less than or equal to 100",
    "pretrain data.stats=[[0.5],[0]]": "deviations above 0 up to 1",
    "pretrain data.lanes=0": "lanes must be at least 1",
    "pretrain data.cache_bytes=0": "cache_bytes must be positive",
    "pretrain data.streaming_samples=0": "data.streaming_samples: Input should be greater than or equal to 1",
    "pretrain data.mix=[{path:x,weight:-1}]": "weight must be positive and finite",
    f"{TUNE} task.mixup=-1": "task.mixup: Input should be greater than or equal to 0",
    f"{TUNE} task.cutmix=nan": "task.cutmix: Input should be a finite number",
    f"{TUNE} task.label_smoothing=1": "task.label_smoothing: Input should be less than 1",
    f"{TUNE} task.erasing=2": "task.erasing: Input should be less than or equal to 1",
    f"{TUNE} task.crop_scale=[0,1]": "task.crop_scale.0: Input should be greater than 0",
    f"{TUNE} task.crop_scale=[0.9,0.1]": "task: crop_scale is [least, most]",
    f"{TUNE} task.crop_ratio=0": "crop_ratio must lie in (0, 1]",
    f"{TUNE} task=multilabel task.threshold=2": "threshold is a probability between 0 and 1",
    f"{TUNE} data.labels_per_class=0": "data.labels_per_class: Input should be greater than or equal to 1",
    # commands that apply a model
    "evaluate": "ckpt: a value is required: a run of finetune",
    "evaluate ckpt=x strategy=ddp": "evaluate has no strategy to choose. Its settings are key=value",
    "evaluate ckpt=x resolution=[]": "resolution is an empty list",
    "evaluate ckpt=x resolution=0": "resolution",
    "evaluate ckpt=x data.path= batch_size=0": "batch_size: Input should be greater than or equal to 1",
    "evaluate ckpt=x data.val_ratio=0.1": "unknown key 'data.val_ratio'",
    "evaluate ckpt=x worst=-1": "worst: Input should be greater than or equal to 0",
    "evaluate ckpt=x output_dir=full": "(it holds precious.txt). Choose another output_dir",
    "predict ckpt=x": "data.path: a value is required",
    "predict ckpt=x data.path=": "path is empty, which would be the current directory",
    "predict ckpt=x data.path=x table=xlsx": "table: Input should be 'csv' or 'parquet'",
    "predict ckpt=x data.path=x trainer.devices=2": "unknown key 'trainer.devices'",
    "predict ckpt= data.path=x": "ckpt is empty",
    "embed ckpt=x data.path=x stage=0": "stage: Input should be greater than or equal to 1",
    "embed ckpt=x data.path=x format=csv": "format: Input should be 'npy' or 'parquet'",
    "embed ckpt=x data.path=x resolutoin=32": "Did you mean 'resolution'?",
    # what does not go together
    f"{TUNE} task=multilabel data.labels_per_class=3": "which task=multilabel does not have",
    f"{TUNE} data.mix=[{{path:a,weight:1}}]": "mix and streaming_samples are for pretraining",
    f"{TUNE} data.val_ratio=0": "val_ratio=0 is for pretraining",
    "pretrain strategy=deepspeed_zero2 compile=true": "compile=true does not work under DeepSpeed",
    # directories
    "pretrain output_dir=/proc/nope": "output_dir=/proc/nope cannot be used: No such file",
    "pretrain output_dir=file": "output_dir=file cannot be used: File exists",
    "pretrain output_dir=file/run": "output_dir=file/run cannot be used: Not a directory",
    "pretrain output_dir=full": "output_dir=full is not empty (it holds precious.txt). Add resume=auto",
    "pretrain resume=auto": "the default one is new at every start. Add output_dir=...",
    "pretrain resume=auto output_dir=rnu": "which does not exist. Correct the name, or add resume=null",
}


@pytest.fixture
def answer(tmp_path, monkeypatch, capsys):
    """Give the door a command line; returns its exit code and what it printed."""
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")
    umask = os.umask(0o022)

    def knock(line: str) -> tuple[str | int | None, str]:
        command, *arguments = shlex.split(line)
        monkeypatch.setattr(sys, "argv", [command, *arguments])
        with pytest.raises(SystemExit) as ended:
            door.open_door(command, SCHEMAS[command], lambda config, folder: pytest.fail("the run was started"))
        printed = capsys.readouterr()
        return int(ended.value.code), printed.out + printed.err

    yield knock
    os.umask(umask)


QUICK = 4
"""Of so many mistakes the quick tests try one; each composes a configuration."""


@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=[pytest.mark.slow] * (number % QUICK > 0)) for number, line in enumerate(MISTAKES)],
)
def test_a_mistake_gets_its_answer_at_the_door(answer, tmp_path, line):
    code, text = answer(line)
    assert MISTAKES[line] in text
    assert code == 2
    assert "Traceback" not in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"], "a start that failed left something"


@pytest.mark.parametrize("launcher", [{"SLURM_JOB_ID": "7"}, {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1"}])
def test_a_restart_finds_no_directory_and_starts(tmp_path, monkeypatch, launcher):
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", **launcher}.items():
        monkeypatch.setenv(name, value)
    door.check_resume(tmp_path / "run", "auto")


def test_values_of_a_sweep_pass_with_m(answer):
    code, text = answer("pretrain -m seed=1,2 nope=1")
    assert code == 2
    assert "which -m asks for" not in text


def test_a_failed_job_of_a_sweep_leaves_those_that_ran(tmp_path):
    for job in "01":
        (tmp_path / "sweep" / job / ".hydra").mkdir(parents=True)
        (tmp_path / "sweep" / job / "pretrain.log").touch()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    (tmp_path / "sweep" / "0" / "metrics.json").touch()
    for job in "01":
        door.leave_no_job(tmp_path / "sweep" / job, tmp_path / "sweep")
    assert sorted(path.name for path in (tmp_path / "sweep").iterdir()) == ["0", "multirun.yaml"]
    (tmp_path / "sweep" / "0" / "metrics.json").unlink()
    door.leave_no_job(tmp_path / "sweep" / "0", tmp_path / "sweep")
    assert list(tmp_path.iterdir()) == []
