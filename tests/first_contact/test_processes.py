"""Real processes: how long an answer takes and what is imported for it, Ctrl-C while importing, garbage for scripts."""

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, call, environment
from made_images import make_slopes
from runs import CPU

pytestmark = pytest.mark.slow
HEAVY = {"torch", "torchvision", "lightning", "timm", "torchmetrics", "wandb", "deepspeed", "transformers", "PIL"}


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    "line", [["pretrain", "optim.bas_lr=1"], ["finetune", "ckpt=x"], ["pretrain", "data.path=x", "seed=1,2"]]
)
def test_an_answer_takes_less_than_two_seconds(tmp_path, line):
    """Of the processor's time, since other tests run beside this one."""
    before = cpu_seconds()
    done = call([sys.executable, "-m", *line], tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert cpu_seconds() - before < 2


@pytest.mark.parametrize("arguments", [["--help"], ["optim.bas_lr=1"], ["--cfg", "job"]])
@pytest.mark.parametrize("command", ["pretrain", "finetune"])
def test_help_and_answers_import_no_torch(tmp_path, command, arguments):
    code = (
        "import atexit, runpy, sys\n"
        "atexit.register(lambda: print('imported:', *sys.modules, file=sys.stderr))\n"
        f"sys.argv = {[command, *arguments]!r}\n"
        f"runpy.run_module({command!r}, run_name='__main__')"
    )
    done = call([sys.executable, "-c", code], tmp_path)
    imported = set(done.stderr.partition("imported:")[2].split())
    assert "hydra" in imported
    assert HEAVY.isdisjoint(imported)


def interrupted(run: str, moment: str, arguments: list[str], cwd: Path) -> subprocess.CompletedProcess[str]:
    """What runpy runs, with these arguments, and SIGINT when it begins to import a library."""
    code = (
        "import builtins, os, runpy, signal, sys\n"
        "load = builtins.__import__\n"
        "def watched(name, *rest, **more):\n"
        f"    if name.partition('.')[0] == {moment!r}:\n"
        "        builtins.__import__ = load\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(name, *rest, **more)\n"
        "builtins.__import__ = watched\n"
        "sys.argv = ['', *sys.argv[1:]]\n"
        f"runpy.{run}"
    )
    return call([sys.executable, "-c", code, *arguments], cwd)


@pytest.mark.parametrize("command", ["pretrain", "finetune"])
@pytest.mark.parametrize("moment", ["hydra", "torch", "lightning"])
def test_ctrl_c_while_importing_is_one_line(tmp_path, command, moment):
    given = ["data.path=builtin:digits", "output_dir=run"] + ["ckpt=x"] * (command == "finetune")
    done = interrupted(f"run_module({command!r}, run_name='__main__')", moment, given, tmp_path)
    assert done.returncode == 130
    assert done.stderr == f"{command}: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["convert_weights", "convert_zero", "export", "replay"])
def test_ctrl_c_at_a_script_is_one_line(tmp_path, script):
    path = str(ROOT / "scripts" / f"{script}.py")
    given = ["x"] if script == "replay" else ["x", "y"]
    done = interrupted(f"run_path({path!r}, run_name='__main__')", "torch", given, tmp_path)
    assert done.stderr == f"{script}: interrupted\n"
    assert done.returncode == 130


def test_ctrl_c_at_once_ends_data_write_with_one_line(tmp_path):
    script = str(ROOT / "scripts" / "make_shards.py")
    for run, moment, line in (
        ("run_module('data.write', run_name='__main__')", "numpy", "interrupted; an unfinished set goes on when"),
        (f"run_path({script!r}, run_name='__main__')", "data", "make_shards: interrupted\n"),
    ):
        done = interrupted(run, moment, ["in", "out"], tmp_path)
        assert done.stderr.startswith(line)
        assert done.stderr.count("\n") == 1
        assert done.returncode == 130


def test_ctrl_c_ends_the_demo_with_one_line(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--output", "out"]
    unbuffered, pipe = environment(PYTHONUNBUFFERED="1"), subprocess.PIPE
    with subprocess.Popen(command, cwd=tmp_path, env=unbuffered, text=True, stdout=pipe, stderr=pipe) as demo:
        assert demo.stdout is not None
        while not (line := demo.stdout.readline()).startswith("$ python -m pretrain"):
            assert line, "the demo ended"
        demo.send_signal(signal.SIGINT)
        assert demo.communicate(timeout=60)[1] == "demo: interrupted\n"
    assert demo.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["convert_weights.py", "nope.pth", "out"], 4, "nope.pth cannot be read"),
        (["convert_weights.py", "empty.pth", "out"], 4, "empty.pth cannot be read"),
        (["convert_weights.py", "garbage.pth", "out"], 4, "garbage.pth cannot be read"),
        (["convert_weights.py", "garbage.safetensors", "out"], 4, "garbage.safetensors cannot be read"),
        (["convert_weights.py", "folder", "out"], 4, "folder holds neither model.safetensors nor"),
        (["convert_weights.py", "garbage.pth", "out", "--to-huggingface"], 4, "garbage.pth cannot be read"),
        (["convert_weights.py", "garbage.pth"], 2, "the following arguments are required: destination"),
        (["export.py", "nope", "out"], 4, "nope does not exist"),
        (["export.py", "folder", "out"], 4, "folder is not an encoder folder"),
        (["export.py", "nope", "folder", "format=hf"], 4, "folder exists; choose another path"),
        (["export.py", "nope", "out", "format=tflite"], 2, "format: Input should be 'timm', 'hf', 'onnx' or"),
        (["export.py", "nope", "out", "fromat=hf"], 2, "Did you mean 'format'?"),
        (["export.py", "nope", "out", "onnx"], 2, "settings are key=value"),
        (["replay.py", "nope"], 3, "nope is no replay bundle"),
        (["replay.py", "folder", "--device", "gpu"], 2, "invalid choice: 'gpu'"),
        (["convert_zero.py", "nope", "out"], 4, "no usable checkpoint found"),
        (["convert_zero.py", "nope"], 2, "give either a folder to write or --universal"),
        (["make_shards.py", "nope", "out"], 3, "A source of images must exist, got nope"),
        (["make_shards.py", "folder", "out"], 3, "No images found in folder"),
        (["make_shards.py", "verify", "folder"], 3, "A shard set is a directory with manifest.json, got folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_scripts_answer_garbage(tmp_path, arguments, code, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty.pth").touch()
    for name in ("garbage.pth", "garbage.safetensors"):
        (tmp_path / name).write_bytes(b"\xff" * 100)
    done = call([sys.executable, ROOT / "scripts" / arguments[0], *arguments[1:]], tmp_path)
    assert "Traceback" not in done.stderr
    assert words in done.stderr
    assert done.returncode == code
    assert not (tmp_path / "out").exists()


def test_no_run_shows_a_warning_that_a_user_can_do_nothing_about(tmp_path):
    small = (*CPU, "trainer.max_epochs=1", "global_batch_size=16", "batch_size=16", "schedule.warmup_epochs=0")
    small = (*small, f"data.path={make_slopes(tmp_path / 'images', 48, ('a', 'b'))}", "data.val_ratio=0.25")
    small = (*small, f"data.cache_dir={tmp_path / 'cache'}")
    model = ("model.embed_dim=16", "model.head_dim=8")
    for command, more in (("pretrain", model), ("finetune", ("experiment=demo_ft", "ckpt=pretrain"))):
        more = (*more, "data.labels_per_class=null") if command == "finetune" else more
        done = call([sys.executable, "-m", command, *more, *small, f"output_dir={command}"], tmp_path)
        assert done.returncode == 0, done.stderr
        assert "encoder" in done.stdout + done.stderr
        assert "Warning" not in done.stdout + done.stderr
