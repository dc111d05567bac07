"""Non-finite steps and spikes in whole runs."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import Fault, column, losses, weights
from safetensors.torch import load_file

from swinmim.checkpoint import io
from swinmim.training.callbacks.averaging import KEY

NAN = float("nan")
ROOT = Path(__file__).parents[2]


def read_events(output_dir, rank):
    return [json.loads(line) for line in (output_dir / f"stability_rank{rank}.jsonl").read_text().splitlines()]


def state(folder):
    return torch.load(folder / io.STATE, weights_only=True)


@pytest.mark.reliability
@pytest.mark.parametrize("factor", [NAN, float("inf")])
def test_a_bad_batch_on_one_rank_is_skipped_by_both(tmp_path, start, factor):
    settings = ("callbacks.checkpoint.every_steps=1", "callbacks.checkpoint.keep_last=9")
    fault = Fault("multiply", (3,), rank=1, factor=factor)
    run = start(tmp_path / "run", *settings, world=2, faults=[fault])
    assert run.wait() == [0, 0], run.text() + run.text(1)
    before, after = (state(io.step_folder(tmp_path / "run" / "checkpoints", step)) for step in (2, 3))
    assert all(torch.equal(tensor, after["state_dict"][name]) for name, tensor in before["state_dict"].items())
    moments = [payload["optimizer_states"][0]["state"] for payload in (before, after)]
    for number, values in moments[0].items():
        assert all(torch.equal(value, moments[1][number][name]) for name, value in values.items())
    assert after["lr_schedulers"][0]["last_epoch"] == before["lr_schedulers"][0]["last_epoch"] + 1
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run").values())
    (event,) = read_events(tmp_path / "run", 1)
    assert event["step"] == 3
    assert len(event["samples"]) == 8
    assert event["samples"][0] in run.text(1)
    assert "not taken" in run.text()
    assert "loss finite on rank 0" in run.text()
    assert column(tmp_path / "run", "health/nan_steps")[-1] == 1
    assert len(losses(tmp_path / "run")) == 8


@pytest.mark.slow
def test_too_many_bad_steps_end_the_run_before_the_weights_change(tmp_path, start):
    settings = ("callbacks.stability.max_nonfinite_steps=2", "callbacks.checkpoint.every_steps=1")
    fault = Fault("multiply", (3, 4), factor=NAN)  # the next ones are fine, and must not be taken either
    run = start(tmp_path / "run", *settings, "callbacks.checkpoint.keep_last=9", faults=[fault])
    assert run.wait() == [5], run.text()
    assert "not finite for 2 steps in a row, up to step 4" in run.text()
    assert "Traceback" not in run.text()
    found, _ = io.newest(tmp_path / "run" / "checkpoints")
    good, last = state(io.step_folder(tmp_path / "run" / "checkpoints", 2)), state(found)
    assert last["global_step"] == 5
    assert all(torch.equal(tensor, last["state_dict"][name]) for name, tensor in good["state_dict"].items())
    bundle = tmp_path / "run" / "replay" / "step_00000004"
    held = load_file(bundle / "weights.safetensors")
    assert all(torch.equal(tensor, good["state_dict"][f"network.{name}"]) for name, tensor in held.items())
    command = [sys.executable, ROOT / "scripts" / "replay.py", bundle]
    replayed = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert replayed.returncode == 0, replayed.stderr
    # the fault was in the test, not in the model: the step itself is sound, and its loss is the one of the run
    assert "every value is finite here" in replayed.stdout
    assert "rank 0, epoch 0, micro-batch 3" in replayed.stdout


@pytest.mark.reliability
@pytest.mark.parametrize("stage", [2, 3])
def test_deepspeed_skips_a_bad_batch_and_it_is_counted(tmp_path, start, stage):
    settings = ("callbacks.checkpoint.every_steps=1", "callbacks.checkpoint.keep_last=9")
    fault = Fault("multiply", (3,), rank=1, factor=float("inf"))
    run = start(tmp_path / "run", f"strategy=deepspeed_zero{stage}", *settings, world=2, faults=[fault])
    assert run.wait(200) == [0, 0], run.text()[-3000:] + run.text(1)[-3000:]
    folders = [io.step_folder(tmp_path / "run" / "checkpoints", step) for step in (2, 3, 4)]
    before, after, later = (load_file(folder / "encoder" / "model.safetensors") for folder in folders)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert not all(torch.equal(tensor, later[name]) for name, tensor in before.items())
    (event,) = read_events(tmp_path / "run", 1)
    assert (event["step"], len(event["samples"])) == (3, 8)
    assert column(tmp_path / "run", "health/nan_steps")[-1] == 1


@pytest.mark.reliability
def test_both_ranks_stop_at_the_same_step(tmp_path, start):
    fault = Fault("multiply", (3, 4, 5, 6), rank=1, factor=NAN)
    run = start(tmp_path / "run", "callbacks.stability.max_nonfinite_steps=2", world=2, faults=[fault])
    assert run.wait() == [5, 5], run.text() + run.text(1)
    bundle = tmp_path / "run" / "replay" / "step_00000004"
    assert sorted(path.name for path in bundle.iterdir()) == [
        "rank_1.json",
        "rank_1_batch_0.safetensors",
        "replay.json",
        "weights.safetensors",
    ]


@pytest.mark.reliability
def test_a_spike_goes_back_and_passes_by_the_stated_steps(tmp_path, start):
    settings = ("callbacks.checkpoint.every_steps=2", "callbacks.checkpoint.keep_last=9")
    watched = ("callbacks.stability.spike_threshold=20", "callbacks.stability.spike_window=3")
    spiking = start(tmp_path / "run", *settings, *watched, faults=[Fault("multiply", (5,), factor=100.0)])
    # The same by other means: steps that are skipped leave the weights as they are while data and schedule go on.
    skipping = start(tmp_path / "other", *settings, faults=[Fault("multiply", (5, 6), factor=NAN)])
    assert (spiking.wait(), skipping.wait()) == ([0], [0]), spiking.text() + skipping.text()
    (event,) = read_events(tmp_path / "run", 0)
    assert (event["event"], event["step"], event["first"], event["last"]) == ("rewind", 5, 5, 6)
    assert "those of step_00000004 again; the batches of steps 5 to 6 are passed by" in spiking.text()
    assert math.isclose(event["loss"], losses(tmp_path / "run")[4], rel_tol=1e-5)
    other = weights(tmp_path / "other")
    assert all(torch.equal(tensor, other[name]) for name, tensor in weights(tmp_path / "run").items())
    assert losses(tmp_path / "run")[6:] == losses(tmp_path / "other")[6:]


@pytest.mark.reliability
@pytest.mark.parametrize("world", [1, 2])
def test_an_average_goes_back_with_the_weights(tmp_path, start, world):
    settings = ("callbacks.checkpoint.every_steps=1", "callbacks.checkpoint.keep_last=9", "callbacks.ema_decay=0.5")
    watched = ("callbacks.stability.spike_threshold=20", "callbacks.stability.spike_window=3")
    faults = [Fault("multiply", (5,), rank=rank, factor=100.0) for rank in range(world)]
    run = start(tmp_path / "run", *settings, *watched, world=world, faults=faults)
    assert run.wait() == [0] * world, run.text()
    assert "those of step_00000004 again; the batches of steps 5 to 6 are passed by" in run.text()
    steps = {n: state(io.step_folder(tmp_path / "run" / "checkpoints", n)) for n in (3, 4, 5, 6, 7, 8)}
    for name, before in steps[4][KEY].items():
        assert torch.equal(steps[6][KEY][name], before), name
    names = [name for name, value in steps[4]["state_dict"].items() if value.is_floating_point()]
    for earlier, later in ((3, 4), (4, 5), (6, 7), (7, 8)):
        for name in names:
            expected = 0.5 * steps[earlier][KEY][f"module.{name}"] + 0.5 * steps[later]["state_dict"][name]
            torch.testing.assert_close(steps[later][KEY][f"module.{name}"], expected)
    for name, tensor in weights(tmp_path / "run").items():
        assert torch.equal(tensor, steps[8][KEY].get(f"module.network.encoder.{name}", tensor)), name


@pytest.mark.reliability
def test_a_spike_right_after_going_back_ends_the_run(tmp_path, start):
    settings = ("callbacks.stability.spike_threshold=20", "callbacks.stability.spike_window=2")
    fault = Fault("multiply", (4, 6), factor=100.0)
    run = start(tmp_path / "run", *settings, "callbacks.checkpoint.every_steps=3", faults=[fault])
    assert run.wait() == [5], run.text()
    assert [event["step"] for event in read_events(tmp_path / "run", 0)] == [4]
    assert "Go on from an older checkpoint than step_00000005" in run.text()
