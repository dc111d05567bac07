"""Whole runs against files made to run code, fill the memory or leak what the user trusts us with."""

import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import zlib
from io import BytesIO
from pathlib import Path

import pytest
import torch
from commands import ROOT, call, environment
from made_images import make_slopes
from runs import TINY
from servers import file_server

from data.write.__main__ import main as write
from pretrain.config import PretrainConfig
from pretrain.module import PretrainModule
from pretrain.run import run as pretrain
from swinmim import door
from swinmim.checkpoint import zero
from swinmim.checkpoint.convert import convert
from swinmim.checkpoint.encoder import load_encoder, save_encoder
from swinmim.composition import check
from swinmim.config import CONF_DIR
from swinmim.errors import CheckpointError, UserError
from swinmim.export.timm_folder import export_timm
from swinmim.models.swinv2 import create_encoder

pytestmark = pytest.mark.reliability


class Canary:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def canary(tmp_path):
    """A file that an executed payload would have made; it must be absent at the end."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.fixture(params=["", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"])
def forced(request, monkeypatch):
    """Without and with the variable by which torch unpickles whatever is not said to be weights only."""
    if request.param:
        monkeypatch.setenv(request.param, "1")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_slopes(tmp_path_factory.mktemp("set"), 32)


@pytest.fixture
def start(images, tmp_path, monkeypatch):
    """Run a tiny pretraining in this process."""
    monkeypatch.setenv(door.STARTED, "2026-01-01_00-00-00")

    def run(output_dir: Path, *overrides: str) -> None:
        arguments = [*TINY, f"data.path={images}", f"data.cache_dir={tmp_path / 'cache'}", f"output_dir={output_dir}"]
        config = check("pretrain", PretrainConfig, [*arguments, *overrides])
        output_dir.mkdir(parents=True, exist_ok=True)
        pretrain(config, output_dir)

    return run


def test_the_payload_is_live(tmp_path):
    torch.save({"x": Canary(tmp_path / "made")}, tmp_path / "evil.pth")
    with pytest.warns(ResourceWarning):  # the file that the payload opens is closed by nobody
        torch.load(tmp_path / "evil.pth", weights_only=False)
    assert (tmp_path / "made").exists()


def test_checkpoint_that_is_whole_but_hostile(start, tmp_path, canary, monkeypatch, forced):
    """Its marker is right, since our own code wrote it; only the trainer state holds one thing more."""
    with monkeypatch.context() as patch:
        patch.setattr(PretrainModule, "on_save_checkpoint", lambda _, state: state.update(extra=Canary(canary)))
        start(tmp_path / "run", "trainer.max_steps=1")
    for resume in ("auto", str(tmp_path / "run")):
        with pytest.raises(CheckpointError, match=r"state\.ckpt"):
            start(tmp_path / "run", f"resume={resume}", "trainer.max_steps=1")


def test_zero_checkpoint_that_is_hostile(tmp_path, canary, forced):
    pytest.importorskip("deepspeed")
    folder = tmp_path / "state.ckpt" / zero.TAG
    folder.mkdir(parents=True)
    torch.save({"x": Canary(canary)}, folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        zero.inspect(folder.parent)


@pytest.mark.parametrize("name", ["evil.pth", "evil.pt", "evil.ckpt", "pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("style", ["zip", "legacy", "bare"])
def test_weights_that_are_hostile(start, tmp_path, canary, name, style, forced):
    content = {"model": {"patch_embed.proj.weight": torch.zeros(1)}, "x": Canary(canary)}
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / name
    if style == "bare":
        file.write_bytes(pickle.dumps(content["x"], protocol=2))  # torch warns of others, and reads them too
    else:
        torch.save(content, file, _use_new_zipfile_serialization=style == "zip")
    for source in (file, file.parent):
        with pytest.raises(CheckpointError, match=r"holds|cannot be read"):
            convert(source, tmp_path / "out")
        with pytest.raises(CheckpointError):
            export_timm(source, tmp_path / "out")
        with pytest.raises(CheckpointError):
            load_encoder(source)
    with pytest.raises(UserError):
        start(tmp_path / "run", f"ckpt={file.parent}")
    assert not (tmp_path / "out").exists()


def test_encoder_folder_with_a_pickle_for_weights(tmp_path, canary, forced):
    folder = save_encoder(create_encoder("swinv2_demo", resolution=32, embed_dim=16, head_dim=8), tmp_path / "encoder")
    torch.save({"x": Canary(canary)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        load_encoder(folder)


@pytest.mark.parametrize("key", ["resume", "ckpt"])
def test_checkpoints_are_not_fetched_from_the_net(start, tmp_path, key):
    with file_server(tmp_path) as server, pytest.raises(CheckpointError, match=r"resume=|http"):
        start(tmp_path / "run", f"{key}={server.url}/evil.ckpt")
    assert server.requests == []


@pytest.mark.slow
def test_scripts_refuse_hostile_weights_whatever_the_environment_says(tmp_path, canary):
    torch.save({"model": {"w": torch.zeros(1)}, "x": Canary(canary)}, tmp_path / "evil.pth")
    env = environment(TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
    for script in ("convert_weights.py", "export.py"):
        done = call([sys.executable, ROOT / "scripts" / script, "evil.pth", "out"], tmp_path, env)
        assert (done.returncode, "Traceback" in done.stderr) == (4, False), done.stderr


PLAIN = """
import hydra, sys
hydra.main(config_path=sys.argv.pop(1), config_name="pretrain", version_base="1.3")(lambda cfg: None)()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    [
        "+hydra.callbacks.x={_target_:webdataset.gopen,url:'pipe:touch CANARY'}",
        "+hydra.job_logging.handlers.x={class:logging.FileHandler,filename:CANARY}",
    ],
)
def test_hydra_would_run_what_the_door_refuses(tmp_path, override):
    """Without the door the canary is made; with it, it is not."""
    attack = [override.replace("CANARY", str(tmp_path / "canary")), "output_dir=run", "data.path=x"]
    env = environment(SWINMIM_STARTED="x")
    call([sys.executable, "-c", PLAIN, CONF_DIR, *attack], tmp_path, env)
    assert (tmp_path / "canary").exists()
    (tmp_path / "canary").unlink()
    shutil.rmtree(tmp_path / "run")
    done = call([sys.executable, "-m", "pretrain", *attack], tmp_path)
    assert done.returncode == 2
    assert "can name code to run" in done.stderr
    assert list(tmp_path.iterdir()) == []


def bomb(side: int = 60_000) -> bytes:
    """A PNG of 440 KB that unpacks to 3.6 gigapixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def measured(command: list[str | Path], cwd: Path) -> None:
    """Run a command that must succeed in 2 GB; the bomb alone would take 3.6 GB as grey pixels."""
    with (cwd / "log").open("w") as log:
        process = subprocess.Popen(list(map(str, command)), env=environment(), cwd=cwd, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, (cwd / "log").read_text()[-3000:]
    assert usage.ru_maxrss < 2_000_000  # KiB


@pytest.mark.slow
@pytest.mark.parametrize("how", ["written again", "indexed", "streamed"])
def test_hostile_shards(tmp_path, images, how):
    """Good images beside pickles, keys that climb out of the folder, and a bomb: the run counts them and goes on."""
    (tmp_path / "shards").mkdir()
    canary = tmp_path / "canary"
    payload = pickle.dumps(Canary(canary))
    with tarfile.open(tmp_path / "shards" / "000.tar", "w") as tar:

        def add(name: str, data: bytes) -> None:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, BytesIO(data))

        for path in sorted(images.iterdir()):
            add(path.name, path.read_bytes())
        for suffix in ("pkl", "pickle", "pyd", "pth", "pt", "npy"):
            add(f"evil.{suffix}", payload)
        add("bomb.png", bomb())
        if how == "streamed":  # the others refuse such a tar
            add("../../climbed.png", (images / "000.png").read_bytes())
            add(str(tmp_path / "absolute.png"), (images / "000.png").read_bytes())
        for kind, name in ((tarfile.SYMTYPE, "link.png"), (tarfile.FIFOTYPE, "pipe.png")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
    before = {path.name for path in tmp_path.iterdir()}

    def prepare(*arguments: str | Path) -> None:
        measured([sys.executable, "-m", "data.write", *arguments], tmp_path)

    folder = tmp_path / "run" / "shards"
    if how == "written again":
        prepare(tmp_path / "shards", folder, "--max-bad-ratio", "0.9")
    else:
        shutil.copytree(tmp_path / "shards", folder)
    if how == "indexed":
        prepare("index", folder)
    data = [f"data.path={folder}", f"data.cache_dir={tmp_path / 'run' / 'cache'}", "data.max_bad_fraction=0.9"]
    data += ["data.streaming_samples=32"] if how == "streamed" else []
    command = [sys.executable, "-m", "pretrain", *TINY, *data, f"output_dir={tmp_path / 'run' / 'out'}"]
    measured(command, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == before | {"run", "log"}
    assert not (tmp_path.parent / "climbed.png").exists()


@pytest.mark.parametrize("name", ["../../climbed.png", "/tmp/absolute.png"])
@pytest.mark.parametrize("index", [False, True])
def test_tars_with_names_that_leave_their_folder_are_refused(tmp_path, images, name, index, capsys):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "000.tar", "w") as tar:
        tar.add(images / "000.png", "good.png")
        info = tarfile.TarInfo(name)
        info.size = (images / "000.png").stat().st_size
        tar.addfile(info, BytesIO((images / "000.png").read_bytes()))
    arguments = ["index", tmp_path / "shards"] if index else [tmp_path / "shards", tmp_path / "out"]
    assert write(list(map(str, arguments))) == 3
    assert "leads out of its folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["000.tar", "shards"]


def test_programs_are_no_source_of_data(start, tmp_path, canary):
    for path in (f"pipe:touch {canary}", f"pipe:touch {canary} &&"):
        for streaming in ([], ["data.streaming_samples=32"]):
            with pytest.raises(UserError, match="read over https"):
                start(tmp_path / "run", f"data.path='{path}'", *streaming)


SECRETS = {
    "WANDB_API_KEY": "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c",
    "AWS_ACCESS_KEY_ID": "AKIAVERYSECRET000000",
    "AWS_SECRET_ACCESS_KEY": "aws/very+secret/value/0123456789",
    "AWS_SESSION_TOKEN": "very-secret-session-token",
    "HF_TOKEN": "hf_very_secret_token",
}
PASSWORD = "netrc-very-secret"


@pytest.mark.slow
def test_secrets_stay_where_they_are_and_files_are_closed_to_others(tmp_path, images):
    """A run with W&B offline on a remote set behind a password, under the widest umask."""
    shards = tmp_path / "shards"
    done = call([sys.executable, "-m", "data.write", images, shards], tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {PASSWORD}\n")
    env = environment(WANDB_MODE="offline", NETRC=str(tmp_path / "netrc"), **SECRETS)
    run = tmp_path / "run"
    with file_server(shards, password=PASSWORD) as server:
        data = [f"data.path={server.url}", "data.allow_insecure=true", f"data.cache_dir={run / 'cache'}"]
        command = [sys.executable, "-m", "pretrain", *TINY, *data, "logger=wandb", f"output_dir={run / 'out'}"]
        done = subprocess.run(
            command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False, umask=0
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "manifest.json" in server.requests
    files = [path for path in run.rglob("*") if not path.is_symlink()]
    names = " ".join(path.name for path in files)
    for expected in (".wandb", "state.ckpt", "model.safetensors", ".tar", ".png", "overrides.yaml", "metrics.json"):
        assert expected in names
    for secret in (*SECRETS.values(), PASSWORD):
        assert secret not in done.stdout + done.stderr
        for path in files:
            assert secret not in str(path)
            assert path.is_dir() or secret.encode() not in path.read_bytes(), path
    open_to_others = [str(path) for path in files if stat.S_IMODE(path.stat().st_mode) & stat.S_IRWXO]
    assert open_to_others == []
