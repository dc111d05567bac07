"""Whole runs against artefacts of others: what is read is checked, bounded and shown so that no terminal obeys it."""

import json
import os
import shutil
import sys
import tarfile

import pytest
import torch
from commands import ROOT, call, environment
from runs import Run, step_of
from servers import file_server

from swinmim.checkpoint import io
from swinmim.checkpoint.digest import digest
from swinmim.checkpoint.encoder import save_encoder
from swinmim.models.swinv2 import create_encoder

pytestmark = pytest.mark.reliability

DEEP = "[" * 100_000


def pipe(path):
    path.unlink()
    os.mkfifo(path)


def change(path, **fields):
    """Fields of a JSON file; infinite numbers as others may write them."""
    text = json.dumps(json.loads(path.read_text()) | fields)
    path.write_text(text.replace("Infinity", "1e400"))


# Checkpoints ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(start, tmp_path_factory):
    """A run of eight steps with a checkpoint after each."""
    run = tmp_path_factory.mktemp("saved") / "run"
    start(run, "callbacks.checkpoint.every_steps=1", "callbacks.checkpoint.keep_last=99").succeed()
    return run


def settle(newest, text):
    """Settings that the marker vouches for."""
    (newest / io.CONFIG).write_text(text)
    files = json.loads((newest / io.COMPLETE).read_text())["files"]
    change(newest / io.COMPLETE, files=files | {io.CONFIG: digest(newest / io.CONFIG)._asdict()})


def vouch(newest):
    """The marker's line of a state that was changed."""
    files = json.loads((newest / io.COMPLETE).read_text())["files"]
    change(newest / io.COMPLETE, files=files | {io.STATE: digest(newest / io.STATE)._asdict()})


def garbage(newest):
    (newest / io.STATE).write_bytes(b"garbage" * 100)
    vouch(newest)


def other_shapes(newest):
    """The state of another model, whole and rightly marked."""
    state = torch.load(newest / io.STATE, weights_only=True)
    state["state_dict"] = {name: tensor.repeat(2) for name, tensor in state["state_dict"].items() if tensor.ndim == 1}
    torch.save(state, newest / io.STATE)
    vouch(newest)


def empty(newest):
    """A state of no bytes that the marker vouches for."""
    (newest / io.STATE).unlink()
    os.mkfifo(newest / io.STATE)
    files = json.loads((newest / io.COMPLETE).read_text())["files"]
    change(newest / io.COMPLETE, files=files | {io.STATE: files[io.STATE] | {"bytes": 0}})


DAMAGES = {
    "a pipe for a marker": lambda newest: pipe(newest / io.COMPLETE),
    "20 GB of marker": lambda newest: os.truncate(newest / io.COMPLETE, 20 << 30),
    "a nested marker": lambda newest: (newest / io.COMPLETE).write_text(DEEP),
    "an infinite marker": lambda newest: change(newest / io.COMPLETE, number=float("inf")),
    "a marker of texts": lambda newest: change(newest / io.COMPLETE, number="1", files=["state.ckpt"]),
    "a file outside": lambda newest: change(newest / io.COMPLETE, files={"../../x": {"bytes": 1, "sha256": "0" * 64}}),
    "a pipe for settings": lambda newest: pipe(newest / io.CONFIG),
    "nested settings": lambda newest: settle(newest, DEEP),
    "settings of a list": lambda newest: settle(newest, "[1]"),
    "a pipe for a state": empty,
    "a state of garbage": garbage,
    "a state of another model": other_shapes,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_hides_no_older_one(saved, start, tmp_path, damage):
    run = tmp_path / "run"
    shutil.copytree(saved, run, symlinks=True)
    newest = io.step_folder(run / "checkpoints", 8)
    for step in range(1, 7):
        shutil.rmtree(io.step_folder(run / "checkpoints", step))
    DAMAGES[damage](newest)
    if damage in ("a state of garbage", "a state of another model"):
        named = start(tmp_path / "named", f"resume={newest}")
        assert named.wait() == [4], named.text()
        assert "Traceback" not in named.text()
    again = start(run, "resume=auto", "callbacks.checkpoint.keep_last=99")
    assert again.wait() == [0], again.text()
    assert "resume=auto: passed over step_00000008" in again.text()
    assert ". Going on from step_00000007\n" in again.text()
    found, _ = io.newest(run / "checkpoints")
    assert step_of(found) == 8  # step 7 was continued


# Encoder folders ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    model = create_encoder("swinv2_demo", resolution=32, embed_dim=16, head_dim=8)
    return save_encoder(model, tmp_path_factory.mktemp("encoder") / "encoder")


@pytest.mark.parametrize(
    "fields",
    [
        {"windows": []},
        {"windows": [[2**40, 2**40]]},
        {"resolution": [2**40, 2**40]},
        {"architecture": {"name": "swinv2_demo", "embed_dim": 16, "head_dim": 8, "depths": [2, 10**7]}},
        {"mean": [float("nan")] * 3},
        {"mean": [float("inf")] * 3},
        {"std": [0.0] * 3},
        {"std": [-1.0] * 3},
        {"std": "000"},
        {"recipe": {"a": float("inf")}},
    ],
    ids=str,
)
def test_a_manifest_that_cannot_be_true_is_refused(encoder, start, tmp_path, fields):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder, folder)
    change(folder / "manifest.json", **fields)
    run = start(tmp_path / "run", f"ckpt={folder}")
    assert run.wait(60) == [4], run.text()
    assert "manifest.json" in run.text()
    assert "Traceback" not in run.text()


@pytest.mark.parametrize("damage", [pipe, lambda path: path.write_text(DEEP), lambda path: os.truncate(path, 20 << 30)])
@pytest.mark.parametrize("whose", ["ckpt", "data.path"])
def test_a_manifest_that_is_none_is_refused(encoder, shards, small, start, tmp_path, whose, damage):
    folder = tmp_path / "folder"
    shutil.copytree(encoder if whose == "ckpt" else shards, folder)
    damage(folder / "manifest.json")
    run = start(tmp_path / "run", f"{whose}={folder}")
    assert run.wait(60) == [4 if whose == "ckpt" else 3], run.text()
    assert str(folder / "manifest.json") in run.text()
    assert "Traceback" not in run.text()


@pytest.fixture(scope="module")
def shards(small, tmp_path_factory):
    """The pictures of a small run as a shard set."""
    folder = tmp_path_factory.mktemp("shards") / "shards"
    images = next(text for text in small if text.startswith("data.path=")).partition("=")[2]
    assert call([sys.executable, "-m", "data.write", images, folder], ROOT).returncode == 0
    return folder


@pytest.mark.parametrize(
    "fields", [{"mean": [float("inf")] * 3}, {"std": [0.0] * 3}, {"channels": 2**60}, {"shards": "x"}], ids=str
)
def test_a_set_that_cannot_be_is_refused(shards, start, tmp_path, fields):
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    change(folder / "manifest.json", **fields)
    run = start(tmp_path / "run", f"data.path={folder}")
    assert run.wait(60) == [3], run.text()
    assert f"{folder / 'manifest.json'} is no usable manifest" in run.text()
    assert "Traceback" not in run.text()


# Others ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["pipe", "garbage", "sparse"])
def test_an_id_of_wandb_that_is_none_begins_a_new_run(start, tmp_path, damage):
    run, environment = tmp_path / "run", {"WANDB_MODE": "offline"}
    run.mkdir()
    file = run / "wandb_run_id"
    match damage:
        case "pipe":
            os.mkfifo(file)
        case "garbage":
            file.write_text("../../x\x1b[2J")
        case "sparse":
            file.touch()
            os.truncate(file, 20 << 30)
    process = start(run, "logger=wandb", "trainer.max_steps=3", "resume=auto", environment=environment)
    assert process.wait() == [0], process.text()
    assert "is no id of a run" in process.text()
    assert "\x1b[2J" not in process.text()
    assert len(file.read_text()) == 8


@pytest.mark.parametrize("text", [DEEP, '{"version": 1, "label": "exec"}', '{"version": 1e400}', "[]", None])
def test_a_bundle_of_others_is_refused(tmp_path, text):
    os.mkfifo(tmp_path / "replay.json") if text is None else (tmp_path / "replay.json").write_text(text)
    done = call([sys.executable, ROOT / "scripts" / "replay.py", tmp_path], tmp_path, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "replay.json cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_servers_that_refuse_are_called_so(shards, small, tmp_path):
    def run(url, name):
        options = ["data.allow_insecure=true", f"data.cache_dir={tmp_path / 'cache'}", f"output_dir={tmp_path / name}"]
        command = [sys.executable, "-m", "pretrain", *small, f"data.path={url}", *options]
        done = call(command, tmp_path)
        assert done.returncode == 3, done.stderr
        assert "Traceback" not in done.stderr
        assert "FileNotFoundError" not in done.stderr
        return done.stderr

    with file_server(shards) as server:
        server.faults = {"manifest.json": [403] * 99}
        assert "The first try met:\n  HTTP 403: Forbidden" in run(server.url, "forbidden")
    assert "6 tries met:\n  connection refused, " in run(server.url, "refused")


HOSTILE = "a\x1b[2J\x07\u202e\nb"


def test_no_terminal_obeys_a_name(tmp_path, small, start):
    """Names of files, folders, labels, members and classes go through packing, reports, warnings and errors."""
    images = next(text for text in small if text.startswith("data.path=")).partition("=")[2]
    pictures = sorted(os.listdir(images))
    for number, label in enumerate((HOSTILE, "plain")):
        (tmp_path / "images" / label).mkdir(parents=True)
        for picture in pictures[number::2]:
            shutil.copy(f"{images}/{picture}", tmp_path / "images" / label / f"{HOSTILE}{picture}")
    (tmp_path / "images" / "plain" / f"bad{HOSTILE}.png").write_bytes(b"no picture")
    (tmp_path / "images" / "plain" / os.fsdecode(b"\xff\x9b31m.txt")).write_bytes(b"text")
    shown = []

    def write(*arguments):
        done = call([sys.executable, "-m", "data.write", *arguments], tmp_path)
        shown.append(done.stdout + done.stderr)
        return done.returncode

    assert write("images", "shards", "--max-bad-ratio", "0.5") == 0
    assert write("info", "shards") == 0
    assert write("leaks", "shards", "shards") == 3
    assert write("images", "none", "--max-bad-ratio", "0") == 3
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        for name in (f"{HOSTILE}.png", f"{HOSTILE}.jpg"):
            tar.add(f"{images}/{pictures[0]}", name)
            tar.add(f"{images}/{pictures[0]}", name)
    assert write("odd.tar", "odd") == 3
    damaged = tmp_path / "shards" / "train-000000.tar"
    content = bytearray(damaged.read_bytes())
    content[600:700] = bytes(100)
    damaged.write_bytes(content)
    assert write("verify", "shards", "--images") == 3
    run = Run(
        [*small, f"data.path={tmp_path / 'images'}", "data.max_bad_fraction=0.5", "batch_size=16"], tmp_path / "run"
    )
    assert run.wait() == [0], run.text()
    shown.append(run.text())
    assert sum(r"a\x1b[2J\x07\u202e\nb" in text for text in shown) >= 4
    for text in shown:
        assert r"\u202e" + "\n" not in text  # one name, two lines
        controls = set(text) - set("\n\r\t")  # a bar goes back to the begin of its line
        assert all(letter.isprintable() or letter == " " for letter in controls), repr(controls)


@pytest.mark.parametrize("place", ["file", "folder"])
def test_locks_follow_no_link(tmp_path, small, place):
    """Into the cache of a user someone has put links at the places of locks."""
    images = next(text for text in small if text.startswith("data.path=")).partition("=")[2]
    cache, victim = tmp_path / "cache", tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("precious")
    command = [sys.executable, "-m", "pretrain", *small, f"data.cache_dir={cache}", f"output_dir={tmp_path / 'run'}"]
    if place == "folder":
        cache.mkdir()
        (cache / ".locks").symlink_to(victim)
    else:
        assert call([*command, "trainer.max_steps=3"], tmp_path).returncode == 0
        shutil.rmtree(tmp_path / "run")
        (lock,) = (cache / ".locks").iterdir()
        shutil.rmtree(cache / lock.name)
        lock.unlink()
        lock.symlink_to(victim / "made")
    done = call(command, tmp_path)
    assert done.returncode == 3, done.stderr
    assert "packed into data.cache_dir, but" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_text() for path in victim.iterdir()} == {"precious": "precious"}
    dest = tmp_path / "shards"
    dest.mkdir()
    (dest / "plan.json").symlink_to(victim / "precious")
    done = call([sys.executable, "-m", "data.write", images, dest], tmp_path, environment())
    assert done.returncode == 3, done.stderr
    assert (victim / "precious").read_text() == "precious"
