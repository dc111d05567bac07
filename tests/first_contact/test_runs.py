"""Mistakes that only the run can see: data, checkpoints, devices, shapes. Each in a process that was forked for it."""

import json
import os
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from runs import SERVER
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.slow
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
TASK_MODEL = Path(__file__).parents[1] / "golden" / "classify_folder"
DEMO = "ckpt=null model=swinv2_demo resolution=32"

MISTAKES = {
    "pretrain resolution=33": (2, "Nearest legal resolutions: 32 and 40"),
    "pretrain window=5": (2, "is not a multiple of its window (5)"),
    "pretrain recompute=[full,none,none]": (2, "one for each of the 2 stages"),
    "pretrain attention=sdpa chunk=8": (2, "chunk is for the chunked core"),
    "pretrain mim.mask_unit=5": (2, "must be a multiple of the patch size 4"),
    "pretrain model.name=swinv2_x": (2, "Did you mean 'swinv2_t'?"),
    "pretrain model=swinv2_b model.embed_dim=33": (2, "Nearest embed_dim: 32"),
    "pretrain model.in_chans=5": (2, "Add model.in_chans=3"),
    "pretrain model.in_chans=5 data.stats=imagenet data.path=pictures": (2, "has 3 channels, the set has 5. Add data"),
    f"finetune {DEMO} data.stats=[[0.5],[0.5]] data.path=pictures": (2, "lists 1 channels, the set has 3"),
    "pretrain batch_size=7": (2, "batch_size=4 or 8"),
    "pretrain global_batch_size=100": (2, "Nearest legal: global_batch_size=64 or 128"),
    "pretrain global_batch_size=4096 batch_size=4096": (3, "must not be larger than the training set, got 4096"),
    "pretrain schedule.warmup_epochs=100": (2, "must be shorter than the run"),
    "pretrain data.lanes=7": (2, "data.lanes must divide global_batch_size"),
    "pretrain trainer.devices=2": (2, "Add strategy=ddp"),
    "pretrain trainer.num_nodes=2": (2, "needs a launcher on every node"),
    "pretrain resume=nope": (4, "resume=nope: no usable checkpoint found"),
    "pretrain 'allow_drift=[seed]'": (2, "allow_drift has no effect"),
    "pretrain ckpt=nope": (4, "nope does not exist. Give an encoder folder, or a run directory"),
    "pretrain ckpt=file": (4, "file is a file. An encoder folder holds"),
    "pretrain ckpt=empty": (4, "empty is not an encoder folder (it is empty)"),
    "pretrain ckpt=garbage.pth": (4, "garbage.pth cannot be read"),
    "pretrain data.path=nope": (3, "A source of images must exist, got nope"),
    "pretrain data.path=file": (3, "data.path is a folder of images, a list"),
    "pretrain data.path=empty": (3, "No images found in empty"),
    "pretrain data.path=list.csv": (3, "None of the 1 files that list.csv lists exists"),
    "pretrain data.path=builtin:mnist": (3, "The built-in sets are: builtin:digits"),
    "pretrain data.path=http://127.0.0.1:9/set": (3, "Add data.allow_insecure=true"),
    "pretrain data.cache_dir=file": (3, "file cannot be written (File exists)"),
    "pretrain data.cache_dir=/proc/nope": (3, "/proc/nope cannot be written"),
    "pretrain -m seed=1,2 data.path=nope output_dir=sweep": (3, "A source of images must exist, got nope"),
    "finetune ckpt=nope data.path=x": (4, "nope does not exist"),
    f"finetune {DEMO} data.path=file": (3, "data.path is a folder of images, a list"),
    f"finetune {DEMO} data.path=nope": (3, "A source of images must exist"),
    f"finetune {DEMO} data.path=builtin:digits task=video": (3, "task=video needs clips"),
    "finetune.evaluate ckpt=nope": (4, "nope does not exist"),
    "finetune.evaluate ckpt=head resolution=33": (2, "Nearest legal resolutions: 32 and 40"),
    "finetune.evaluate ckpt=head": (2, "to say what it validated on. Add data.path=LABELLED"),
    "finetune.evaluate ckpt=head data.path=builtin:digits": (3, "The model knows the classes a, b, c; "),
    "finetune.evaluate ckpt=plain data.path=builtin:digits": (4, "is an encoder without a head"),
    "finetune.predict ckpt=plain data.path=builtin:digits": (4, "python -m finetune.embed ckpt="),
    "finetune.predict ckpt=head data.path=nope": (3, "A source of images must exist, got nope"),
    "finetune.predict ckpt=head data.path=empty": (3, "No images found in empty"),
    "finetune.embed ckpt=head data.path=builtin:digits stage=3": (2, "has the stages 1 to 2, got stage=3"),
    "finetune.embed ckpt=garbage.pth data.path=builtin:digits": (4, "garbage.pth cannot be read"),
}
WITHOUT_GPU = {
    "pretrain trainer.accelerator=gpu": (2, "sees none. Look at nvidia-smi and CUDA_VISIBLE_DEVICES"),
    "pretrain strategy=deepspeed_zero2": (2, "runs on CUDA GPUs, and this run is on the CPU"),
}


def enter(line: str, folder: Path, output: Path) -> None:
    """In the child: the command, as `python -m` would start it."""
    with output.open("w") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        os.chdir(folder)
        os.environ["HOME"] = str(folder)
        sys.argv = shlex.split(line)
        runpy.run_module(sys.argv[0], run_name="__main__")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def answer(tmp_path, cache):
    """Run a command to its end; returns its exit code and what it printed."""
    folder = tmp_path / "here"
    (folder / "empty").mkdir(parents=True)
    (folder / "file").touch()
    (folder / "garbage.pth").write_text("no checkpoint")
    (folder / "list.csv").write_text("path,label\na.jpg,cat\n")
    for name in ("head", "plain"):
        shutil.copytree(TASK_MODEL, folder / name)
    told = json.loads((TASK_MODEL / "manifest.json").read_text())
    (folder / "plain" / "manifest.json").write_text(json.dumps(told | {"task": None}))
    weights = load_file(TASK_MODEL / "model.safetensors")
    own = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    save_file(own, folder / "plain" / "model.safetensors")
    before = sorted(path.name for path in folder.iterdir())

    def call(line: str) -> tuple[int, str]:
        packs = "data.cache_dir" not in line and not line.startswith(("finetune.predict", "finetune.embed"))
        known = f" data.cache_dir={cache}" if packs else ""
        child = SERVER.Process(target=enter, args=(line + known, folder, tmp_path / "output"))
        child.start()
        child.join(120)
        assert child.exitcode is not None, "the run goes on"
        return child.exitcode, (tmp_path / "output").read_text()

    yield call
    assert sorted(path.name for path in folder.iterdir()) == before


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_gets_its_answer_before_the_run(answer, line):
    code, text = answer(line)
    assert "Traceback" not in text
    assert MISTAKES[line][1] in text
    assert code == MISTAKES[line][0]


@NO_GPU
@pytest.mark.parametrize("line", WITHOUT_GPU)
def test_a_gpu_that_is_not_there_is_said(answer, line):
    code, text = answer(line)
    assert "Traceback" not in text
    assert WITHOUT_GPU[line][1] in text
    assert code == WITHOUT_GPU[line][0]
