"""Pretraining as a whole: it learns, resumes exactly, and does not depend on the number of processes."""

import csv
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import wandb
import yaml
from made_images import make_slopes
from PIL import Image
from runs import CPU, column
from safetensors.torch import load_file

import swinmim
from data.write.__main__ import main as write
from pretrain.config import PretrainConfig
from pretrain.run import run as pretrain
from swinmim.checkpoint import io
from swinmim.checkpoint.encoder import load_manifest
from swinmim.composition import check
from swinmim.errors import CheckpointError, ConfigError, DataError
from swinmim.export.timm_folder import export_timm

GOLDEN = Path(__file__).parents[1] / "golden" / "pretrain_losses.json"
pytestmark = pytest.mark.slow


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "encoder" / "model.safetensors")


def test_loss_falls_on_real_images_and_the_run_leaves_what_it_promises(tmp_path, run_pretrain):
    metrics = run_pretrain(
        tmp_path / "run", "data.path=builtin:digits", "trainer.max_epochs=4", "callbacks.reconstructions.every_epochs=2"
    )
    assert metrics["val/recon_loss"] < 0.6 * metrics["val/mean_baseline"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()) == metrics
    assert len(list((tmp_path / "run" / "reconstructions").glob("*.png"))) == 2
    picture = Image.open(max((tmp_path / "run" / "reconstructions").glob("*.png")))
    assert np.asarray(picture).std() > 20
    assert len(list((tmp_path / "run" / "checkpoints").glob("step_*"))) <= 3  # the last two and the best
    assert "=" not in "".join(str(path) for path in (tmp_path / "run").rglob("*"))
    manifest = json.loads((tmp_path / "run" / "encoder" / "manifest.json").read_text())
    assert manifest["pretrained_windows"] == [[4, 4], [4, 4]]
    assert manifest["metrics"]["val/recon_loss"] == pytest.approx(metrics["val/recon_loss"])
    assert swinmim.load_encoder(tmp_path / "run", resolution=64).stages[0].window == (8, 8)


def test_a_short_run_has_whole_curves_and_says_what_it_derived(tmp_path, run_pretrain, caplog):
    options = ("trainer.max_epochs=30", "trainer.val_every_epochs=30", "trainer.log_every_steps=50")
    with caplog.at_level("INFO"):
        run_pretrain(tmp_path / "run", *options, "callbacks.checkpoint.every_epochs=30", "batch_size=16")
    for name in ("train/loss", "perf/images_per_s", "perf/data_wait_ratio"):
        values = column(tmp_path / "run", name)
        assert 50 <= len(values) <= 100, name  # of 120 steps in epochs of four
    assert all(0 < ratio < 1 for ratio in values)
    printed = [line.split() for line in caplog.records[0].getMessage().splitlines()]
    logged = yaml.safe_load((tmp_path / "run" / "metrics" / "version_0" / "hparams.yaml").read_text())
    names = {"peak_lr", "total_steps", "windows", "masked_units", "accumulation", "precision", "log_every_steps"}
    assert {f"derived/{name}" for name in names} <= logged.keys()
    assert {f"derived/{row[0]}" for row in printed} == logged.keys() | {"derived/start", "derived/output"}
    assert logged["derived/masked_units"] == "39 of 64"
    assert (logged["derived/accumulation"], logged["derived/log_every_steps"]) == (2, 2)


def test_five_bands_of_sixteen_bits_from_tiff_to_picture(tmp_path, run_pretrain):
    (tmp_path / "in").mkdir()
    ramp = np.linspace(0, 1, 32)[:, None, None].repeat(32, axis=1)
    rng = np.random.default_rng(0)
    for number in range(40):
        low, high = rng.integers(0, 10_000, (2, 5))
        image = (low + (high - low) * ramp).astype(np.uint16)
        tifffile.imwrite(tmp_path / "in" / f"{number}.tif", image, photometric="minisblack", planarconfig="contig")
    bands = ["--channels", "5", "--bits", "16", "--value-range", "0", "10000", "--workers", "1"]
    assert write(["make", str(tmp_path / "in"), str(tmp_path / "set"), *bands]) == 0
    manifest = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert (manifest["channels"], manifest["bits"], manifest["value_range"]) == (5, 16, [0, 10000])
    assert all(0.4 < mean < 0.6 for mean in manifest["mean"])
    metrics = run_pretrain(
        tmp_path / "run",
        f"data.path={tmp_path / 'set'}",
        "model.in_chans=5",
        "trainer.max_epochs=1",
        "callbacks.reconstructions.bands=[4,2,0]",
        "callbacks.reconstructions.every_epochs=1",
        "data.val_ratio=0.1",
    )
    # the normalised images have unit variance: with a wrong scale their mean colour would be far off
    assert 0.2 < metrics["val/mean_baseline"] < 2
    picture = Image.open(next((tmp_path / "run" / "reconstructions").glob("*.png")))
    assert np.asarray(picture).std() > 20
    assert swinmim.load_encoder(tmp_path / "run").in_chans == 5


@pytest.mark.filterwarnings("ignore:.*IterableDataset. has .__len__. defined")
@pytest.mark.filterwarnings("ignore:.*Total length of .list. across ranks is zero")
def test_a_stream_trains_and_says_that_its_resume_is_not_exact(
    tmp_path, run_pretrain, read_losses, images, caplog, capsys
):
    tars = tmp_path / "tars"
    assert write(["make", str(images), str(tars), "--shard-samples", "50"]) == 0
    for file in tars.iterdir():
        if file.suffix != ".tar":
            file.unlink()
    stream = (f"data.path={tars}", "data.streaming_samples=128")
    metrics = run_pretrain(tmp_path / "run", *stream, "trainer.max_epochs=1")
    assert "no resume will be exact" in caplog.text
    assert "val/recon_loss" not in metrics
    assert "pictures" not in capsys.readouterr().out
    more = ("trainer.max_epochs=2", "resume=auto", "allow_drift=[trainer.max_epochs]")
    run_pretrain(tmp_path / "run", *stream, *more)
    assert "this resume is not exact" in caplog.text
    losses = read_losses(tmp_path / "run")
    assert len(losses) == 8
    assert losses[-1] < losses[0]


def test_ten_steps_give_the_golden_losses(tmp_path, run_pretrain, read_losses):
    options = ("data.path=builtin:digits", "trainer.max_epochs=1", "trainer.max_steps=10", "schedule.warmup_epochs=0.1")
    run_pretrain(tmp_path / "run", *options, "drop_path=0.1")
    losses = read_losses(tmp_path / "run")
    assert len(losses) == 10
    # other CPUs sum in another order; a change of method shows in the second digit
    assert losses == pytest.approx(json.loads(GOLDEN.read_text()), rel=1e-4)


@pytest.mark.parametrize("stop", ["inside an epoch", "between epochs"])
def test_resumed_run_equals_the_uninterrupted_one(tmp_path, run_pretrain, read_losses, stop):
    options = ("drop_path=0.1", "batch_size=16")  # two micro-batches a step
    whole, part = tmp_path / "whole", tmp_path / "part"
    run_pretrain(whole, *options, "callbacks.checkpoint.every_steps=2", "callbacks.checkpoint.keep_last=9")
    step = 2 if stop == "inside an epoch" else 4
    source = io.step_folder(whole / "checkpoints", step)
    assert io.problem(source) is None
    shutil.copytree(source, part / "checkpoints" / source.name)
    run_pretrain(part, *options, "resume=auto", "data.num_workers=2")
    assert read_losses(part) == read_losses(whole)[-len(read_losses(part)) :]
    assert len(read_losses(part)) == 8 - step
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, weights(part)[name]), name


CONSTANT = ("schedule=multistep", "schedule.milestones=[0.5]", "schedule.warmup_epochs=0.25")
"""Rates that do not depend on the length of the run."""


def test_a_run_that_max_steps_ended_goes_on_with_the_next_batch(tmp_path, run_pretrain, read_losses, caplog):
    options = (*CONSTANT, "drop_path=0.1", "batch_size=16")
    whole = tmp_path / "whole"
    run_pretrain(whole, *options, "trainer.max_epochs=3")
    assert len(read_losses(whole)) == 12
    by_steps = ("trainer.max_epochs=3", "trainer.max_steps=12"), "allow_drift=[trainer.max_steps]"
    by_epochs = ("trainer.max_epochs=3", "trainer.max_steps=-1"), "allow_drift=[trainer.max_steps,trainer.max_epochs]"
    for stop, epochs, (longer, allowed) in ((6, 3, by_steps), (6, 2, by_epochs), (4, 3, by_steps), (4, 2, by_epochs)):
        part = tmp_path / f"{stop}_{epochs}"
        first = (*options, f"trainer.max_epochs={epochs}", f"trainer.max_steps={stop}")
        metrics = run_pretrain(part, *first)
        manifest = json.loads((part / "encoder" / "manifest.json").read_text())
        assert manifest["metrics"]["val/recon_loss"] == pytest.approx(metrics["val/recon_loss"])
        if epochs == 3:
            with caplog.at_level("INFO"):
                assert run_pretrain(part, *first, "resume=auto") == {}
            assert f"nothing is left to train, step {stop} is the last one of this run" in caplog.text
            assert json.loads((part / "metrics.json").read_text()) == metrics
        run_pretrain(part, *options, *longer, allowed, "resume=auto")
        assert read_losses(part) == read_losses(whole), part.name
        log = max(part.glob("metrics/version_*/metrics.csv")).read_text().splitlines()
        steps = [int(row["step"]) for row in csv.DictReader(log) if row["train/loss"]]
        assert steps == list(range(stop, 12))
        for name, tensor in weights(whole).items():
            assert torch.equal(tensor, weights(part)[name]), name


def test_accumulation_shows_the_loss_of_the_whole_step(tmp_path, run_pretrain, read_losses):
    options = ("trainer.max_epochs=1", "callbacks.checkpoint.every_steps=2", "callbacks.checkpoint.keep_last=9")
    run_pretrain(tmp_path / "one", *options)
    run_pretrain(tmp_path / "four", *options, "batch_size=8")
    one, four = read_losses(tmp_path / "one"), read_losses(tmp_path / "four")
    assert four == pytest.approx(one, rel=1e-5)
    source = io.step_folder(tmp_path / "one" / "checkpoints", 2)
    shutil.copytree(source, tmp_path / "part" / "checkpoints" / source.name)
    run_pretrain(tmp_path / "part", *options, "resume=auto", "batch_size=4")
    assert read_losses(tmp_path / "part") == pytest.approx(one[2:], rel=1e-5)


def test_a_mixed_run_resumes_inside_an_epoch_with_other_batches_workers_and_place(
    tmp_path, run_pretrain, read_losses, images
):
    shutil.copytree(images / "vertical", tmp_path / "b")
    options = ("trainer.max_epochs=1", "callbacks.checkpoint.every_steps=3", "drop_path=0.0")
    whole, part = tmp_path / "whole", tmp_path / "part"
    mix = f"data.mix=[{{path: {tmp_path / 'b'}, weight: 0.5}}]"
    run_pretrain(whole, *options, mix, "callbacks.checkpoint.keep_last=9")
    assert len(read_losses(whole)) == 6  # 192 of 240 images in batches of 32
    source = io.step_folder(whole / "checkpoints", 3)
    shutil.copytree(source, part / "checkpoints" / source.name)
    (tmp_path / "b").rename(tmp_path / "moved")
    moved = (*options, mix.replace("/b,", "/moved,"), "resume=auto", "batch_size=8")
    with pytest.raises(ConfigError, match=r"data.mix.0.weight: 0.5 -> 0.25\n.*start a new run from its weights"):
        run_pretrain(part, *moved[:3], moved[3].replace("0.5", "0.25"), *moved[4:])
    run_pretrain(part, *moved, "data.num_workers=2")
    assert read_losses(part) == pytest.approx(read_losses(whole)[3:], rel=1e-5)
    with pytest.raises(DataError, match=r"moved\S* has 68 training images, its share of global_batch_size=120 is 80"):
        run_pretrain(tmp_path / "small", *moved[:3], moved[3].replace("0.5", "2"), "global_batch_size=120", moved[5])


@pytest.mark.parametrize("channels", [1, 3, 6])
def test_listed_statistics_reach_the_exported_model(tmp_path, run_pretrain, run_finetune, channels):
    rng = np.random.default_rng(0)
    for number in range(24):
        folder = tmp_path / "images" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (32, 32, channels), dtype=np.uint8)
        if channels == 6:
            np.save(folder / f"{number}.npy", pixels)
        else:
            Image.fromarray(pixels.squeeze()).save(folder / f"{number}.png")
    options = ["--channels", str(channels), "--resize", "none", "--workers", "1"]
    assert write(["make", str(tmp_path / "images"), str(tmp_path / "set"), *options]) == 0
    mean, std = [0.1 + 0.1 * n for n in range(channels)], [0.5 - 0.05 * n for n in range(channels)]
    small = (f"data.path={tmp_path / 'set'}", "global_batch_size=8", "batch_size=8", "trainer.max_epochs=1")
    small = (*small, "trainer.max_steps=1", "schedule.warmup_epochs=0", "data.val_ratio=0.2")
    first = tmp_path / "pretrain"
    run_pretrain(first, *small, f"data.stats=[{mean},{std}]", f"model.in_chans={channels}")
    run_finetune(tmp_path / "finetune", *small, f"ckpt={first}", "data.labels_per_class=null", "data.stats=auto")
    for run in (first, tmp_path / "finetune"):
        manifest = json.loads((run / "encoder" / "manifest.json").read_text())
        assert (manifest["mean"], manifest["std"]) == (pytest.approx(mean), pytest.approx(std))
    config = json.loads((export_timm(tmp_path / "finetune", tmp_path / "timm") / "config.json").read_text())
    pretrained = config["pretrained_cfg"]
    assert (pretrained["mean"], pretrained["std"]) == (pytest.approx(mean), pytest.approx(std))
    assert pretrained["input_size"][0] == channels


def test_two_processes_equal_one(tmp_path, tiny_arguments, run_pretrain):
    options = ("trainer.max_epochs=1", "batch_size=16", "mim.target=local_norm")
    run_pretrain(tmp_path / "one", *options)
    arguments = [*tiny_arguments, *options, f"output_dir={tmp_path / 'two'}"]
    result = subprocess.run(
        [sys.executable, "-m", "pretrain", *arguments, "strategy=ddp", "trainer.devices=2"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    # the loss of a rank is logged as that rank's mean; the weights have seen both
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], atol=2e-5), name


def test_corrupt_images_are_counted_and_the_run_goes_on(tmp_path, run_pretrain, capsys):
    rng = np.random.default_rng(0)
    for index in range(64):
        folder = tmp_path / "images" / f"deep/{index % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(folder / f"{index}.png")
    (tmp_path / "images" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not an image")
    (tmp_path / "images" / "readme.txt").write_text("no image")
    options = (f"data.path={tmp_path / 'images'}", "trainer.max_epochs=1", "schedule.warmup_epochs=0")
    with pytest.raises(DataError, match=r"At most 0\.1% of the files may be unusable, got 1 of 65:\n.*broken\.jpg"):
        run_pretrain(tmp_path / "run", *options)
    run_pretrain(tmp_path / "run", *options, "data.max_bad_fraction=0.016")
    assert "found 64 images in 4 folders, 2 skipped" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (("data.path=/nowhere/at/all",), DataError, "/nowhere/at/all"),
        (
            ("global_batch_size=4096",),
            DataError,
            "global batch must not be larger than the training set, got 4096 for 128",
        ),
        (("batch_size=24",), ConfigError, "global_batch_size must be a multiple of processes x batch_size"),
        (("resume=/nowhere",), CheckpointError, "no usable checkpoint found"),
        (("ckpt=/nowhere",), CheckpointError, "/nowhere"),
        (("trainer.devices=2",), ConfigError, r"Add strategy=ddp"),
        (("schedule.warmup_epochs=5",), ConfigError, "warm-up .* must be shorter than the run"),
        (("model.in_chans=4",), DataError, r"have 1 or 3 channels, the set wants 4: .*model\.in_chans"),
        (("mim.mask_unit=6",), ConfigError, "mask_unit must be a multiple of the patch size"),
    ],
)
def test_bad_input_stops_with_the_reason(tmp_path, run_pretrain, overrides, error, message):
    with pytest.raises(error, match=message):
        run_pretrain(tmp_path / "run", *overrides)
    assert not (tmp_path / "run" / "checkpoints").exists()


FITTING = ("model.embed_dim=16", "model.head_dim=8", "resolution=64", "trainer.max_epochs=2", "data.val_ratio=0.1")


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=swinv2_t_mim", "schedule.warmup_steps=30000"),
        ("experiment=swinv2_b_mim", "batch_size=512", "data.lanes=64", "schedule.milestones=[700]"),
        ("experiment=demo", "global_batch_size=4100", "batch_size=128"),
        ("experiment=demo", "global_batch_size=130", "batch_size=100"),
        ("experiment=demo", "global_batch_size=64", "batch_size=32", "data.mix=[{path:FEW,weight:1}]"),
    ],
)
def test_a_recipe_for_millions_is_refused_once_by_a_few_images(tmp_path, images, cache, overrides):
    """With one line of overrides, with which it runs."""
    few = make_slopes(tmp_path / "few", 20)
    overrides = [text.replace("FEW", str(few)) for text in overrides]
    arguments = [*overrides, *FITTING, *CPU, f"data.path={images}", f"data.cache_dir={cache}"]

    def run(name, *more):
        config = check("pretrain", PretrainConfig, [*arguments, f"output_dir={tmp_path / name}", *more])
        (tmp_path / name).mkdir()
        return pretrain(config, tmp_path / name)

    large, share = r"not (be )?larger than the training set, got .* for 144 images", r"few-\w+ has 1\d training images"
    why = f"{large}|{share}, its share .* is 32"
    with pytest.raises((DataError, ConfigError), match=why) as caught:
        run("refused")
    way = re.search(r"Add (global_batch_size=.*)\.$", str(caught.value))
    assert "val/recon_loss" in run("mended", *shlex.split(way[1]))


def test_resume_refuses_another_model(tmp_path, run_pretrain):
    run_pretrain(tmp_path / "run", "trainer.max_epochs=1")
    other = ("trainer.max_epochs=1", "resume=auto", "model.embed_dim=64", "model.head_dim=32")
    with pytest.raises(ConfigError, match=r"model.embed_dim: 32 -> 64\n  model.head_dim: 16 -> 32"):
        run_pretrain(tmp_path / "run", *other)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        run_pretrain(tmp_path / "run", *other, "allow_drift=[model.embed_dim,model.head_dim]")


def test_a_longer_run_is_drift_that_can_be_allowed(tmp_path, run_pretrain, read_losses):
    run_pretrain(tmp_path / "run", "trainer.max_epochs=1")
    with pytest.raises(ConfigError, match=r"trainer.max_epochs: 1 -> 2\n.*allow_drift=\[trainer.max_epochs\]"):
        run_pretrain(tmp_path / "run", "trainer.max_epochs=2", "resume=auto")
    longer = ("trainer.max_epochs=2", "resume=auto", "allow_drift=[trainer.max_epochs]")
    run_pretrain(tmp_path / "run", *longer)
    assert len(read_losses(tmp_path / "run")) == 8
    run_pretrain(tmp_path / "run", *longer)  # a requeued job repeats its command
    with pytest.raises(ConfigError, match="allow_drift has no effect on a run that starts anew"):
        run_pretrain(tmp_path / "other", "resume=auto", "allow_drift=[trainer.max_epochs]")


def test_published_weights_are_continued_as_they_are(tmp_path, run_pretrain, caplog):
    """SimMIM's own file of a shape without a name: decoder and mask token too, so the loss goes on where it was."""
    run_pretrain(tmp_path / "first", "trainer.max_epochs=2")
    state = torch.load(tmp_path / "first" / "checkpoints" / "last" / "state.ckpt", weights_only=True)["state_dict"]
    network = {name.removeprefix("network."): tensor for name, tensor in state.items()}
    published = {name.replace("layers.1.downsample", "layers.0.downsample"): t for name, t in network.items()}
    published["encoder.mask_token"] = published.pop("mask_token")[None, None]
    published["encoder.layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.long)
    published["encoder.layers.0.blocks.1.attn_mask"] = torch.zeros(4, 16, 16)
    torch.save({"model": published}, tmp_path / "simmim.pth")
    with caplog.at_level("INFO"):
        run_pretrain(tmp_path / "second", f"ckpt={tmp_path / 'simmim.pth'}", "optim.base_lr=1e-12", "model=swinv2_t")
    assert "mask token and decoder of SimMIM: kept" in caplog.text
    assert (
        "ckpt is a swinv2_custom; model=swinv2_t has no effect beside ckpt; mask token and decoder are those"
        in caplog.text
    )
    metrics = [json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("first", "second")]
    assert metrics[1]["val/recon_loss"] == pytest.approx(metrics[0]["val/recon_loss"], rel=1e-5)
    assert load_manifest(tmp_path / "second" / "encoder").parent == str(tmp_path / "simmim.pth")


def test_bands_that_ckpt_does_not_take_are_refused(tmp_path, run_pretrain, images):
    """Of a set that is written; folders are packed with those of ckpt."""
    assert write(["make", str(images), str(tmp_path / "set"), "--workers", "1"]) == 0
    encoder = swinmim.create_encoder("swinv2_demo", resolution=32, embed_dim=32, head_dim=16, in_chans=1)
    folder = swinmim.save_encoder(encoder, tmp_path / "grey")
    with pytest.raises(ConfigError, match=r"has 3 channels and ckpt=.*grey takes 1\. Write the set with --channels 1"):
        run_pretrain(tmp_path / "run", f"ckpt={folder}", f"data.path={tmp_path / 'set'}")
    run_pretrain(tmp_path / "grey_run", f"ckpt={folder}", "trainer.max_steps=3")
    assert swinmim.load_encoder(tmp_path / "grey_run").in_chans == 1


def test_wandb_runs_offline_and_keeps_its_id(tmp_path, run_pretrain, monkeypatch, caplog):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb_config"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    summary = {}
    finish = wandb.finish
    monkeypatch.setattr(wandb, "finish", lambda: (summary.update(wandb.run.summary), finish()))
    with caplog.at_level("INFO"):
        metrics = run_pretrain(tmp_path / "run", "logger=wandb", "trainer.max_epochs=1")
    assert (summary["best/recon_loss"], summary["best/epoch"]) == (metrics["val/recon_loss"], 1)
    assert summary["val/recon_loss"] == metrics["val/recon_loss"]
    run_id = (tmp_path / "run" / "wandb_run_id").read_text()
    assert "no API key" in caplog.text
    assert "wandb sync" in caplog.text
    assert len(list((tmp_path / "run" / "wandb").glob(f"offline-run-*-{run_id}"))) == 1
    run_pretrain(
        tmp_path / "run", "logger=wandb", "resume=auto", "trainer.max_epochs=2", "allow_drift=[trainer.max_epochs]"
    )
    assert (tmp_path / "run" / "wandb_run_id").read_text() == run_id


def test_unreachable_wandb_server_does_not_cost_the_run(tmp_path, run_pretrain, monkeypatch, caplog):
    wandb.teardown()  # wandb keeps the mode that the first run of a process had
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    run_pretrain(tmp_path / "run", "logger=wandb", "trainer.max_epochs=1")
    assert "cannot be used" in caplog.text
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 1


@pytest.mark.filterwarnings("ignore:.*Total length of .list. across ranks is zero")  # silent at the door
def test_pretraining_that_holds_nothing_out(tmp_path, run_pretrain, read_losses):
    metrics = run_pretrain(tmp_path / "run", "data.val_ratio=0")
    assert len(read_losses(tmp_path / "run")) == 10  # all 160 images in batches of 32, twice
    assert "train/loss" in metrics
    assert not any(name.startswith("val/") for name in metrics)
    assert not (tmp_path / "run" / "reconstructions").exists()
    assert io.find_newest(tmp_path / "run" / "checkpoints") == io.step_folder(tmp_path / "run" / "checkpoints", 10)
    assert swinmim.load_encoder(tmp_path / "run").resolution == (32, 32)
    longer = ("trainer.max_epochs=3", "resume=auto", "allow_drift=[trainer.max_epochs]")
    run_pretrain(tmp_path / "run", "data.val_ratio=0", *longer)
    assert len(read_losses(tmp_path / "run")) == 15
