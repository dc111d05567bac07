import json
import os

import pytest
import torch
from torch import nn

from pretrain.simmim import SimMIM
from swinmim.errors import DataError
from swinmim.models.architecture import get_architecture
from swinmim.models.swinv2 import SwinV2
from swinmim.training.module import Plan
from swinmim.training.replay import MicroBatch, load_weights, read_info, read_micro_batches, replay, write_bundle


class Module(nn.Module):
    """What a replay needs of a training module."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        encoder = SwinV2(get_architecture("swinv2_demo", embed_dim=16, head_dim=8), resolution=32)
        self.network = SimMIM(encoder, mask_unit=4, mask_ratio=0.6, target="raw")
        self.plan = Plan(global_batch_size=2, accumulation=1, steps_per_epoch=3, total_steps=3)
        self.mean = self.std = torch.tensor([0.5] * 3)

    def full_weights(self):
        return self.network.state_dict()

    def training_loss(self, batch):
        images = batch["image"].permute(0, 3, 1, 2).float() / 255
        mask = torch.zeros(len(images), 8, 8, dtype=torch.bool)
        mask[:, ::2] = True
        images = torch.where(batch["index"][:, None, None, None] == 7, torch.inf, images)
        return self.network(images, mask)[0]


def micro_batch(*indices):
    torch.manual_seed(0)
    image = torch.randint(0, 255, (len(indices), 32, 32, 3), dtype=torch.uint8)
    batch = {"image": image, "index": torch.tensor(indices), "substituted": torch.zeros(len(indices), dtype=torch.bool)}
    return MicroBatch(batch=batch, epoch=1, number=2, seed=3)


def run(module, batch):
    return replay(module, batch, device=torch.device("cpu"), precision="32-true")


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(
        tmp_path / "bundle",
        Module(),
        [micro_batch(5, 7)],
        rank=0,
        names=lambda each: [f"image {index}" for index in each.batch["index"].tolist()],
        origin={
            "label": "pretrain",
            "config": {"seed": 0},
            "precision": "32-true",
            "step": 4,
            "checkpoint": "checkpoints/last",
        },
    )


def test_bundle_comes_back_as_it_was_written(bundle):
    assert read_info(bundle).step == 4
    assert read_info(bundle).plan == Module().plan
    ((name, found, samples),) = read_micro_batches(bundle)
    assert name == "rank 0, epoch 1, micro-batch 2"
    assert samples == ["image 5", "image 7"]
    assert found.seed == 3
    assert all(torch.equal(value, found.batch[key]) for key, value in micro_batch(5, 7).batch.items())
    other = Module()
    nn.init.zeros_(other.network.encoder.patch_embed.proj.weight)
    load_weights(bundle, other)
    assert torch.equal(other.network.encoder.patch_embed.proj.weight, Module().network.encoder.patch_embed.proj.weight)


def test_the_sample_with_a_bad_pixel_is_named(bundle):
    ((_, found, _),) = read_micro_batches(bundle)
    finding = run(Module(), found)
    assert finding.rows == [1]
    assert "patch_embed.proj (Conv2d)" in finding.first


def test_a_sound_step_is_called_so():
    finding = run(Module(), micro_batch(1, 2))
    assert finding.first is None
    assert finding.rows == []
    assert finding.grad_norm > 0
    assert "every value is finite here" in str(finding)


def test_the_first_block_to_overflow_is_named():
    module = Module()
    with torch.no_grad():
        module.network.encoder.layers[1].blocks[0].mlp.fc1.weight[0, 0] = torch.nan
    assert "layers.1.blocks.0.mlp.fc1 (Linear)" in run(module, micro_batch(1, 2)).first


def test_a_fault_in_the_backward_pass_is_named_by_its_parameter():
    module = Module()
    weight = module.network.encoder.layers[1].blocks[0].mlp.fc2.weight
    weight.register_hook(lambda gradient: gradient * torch.nan)
    finding = run(module, micro_batch(1, 2))
    assert "layers.1.blocks.0.mlp.fc2.weight, in the backward pass" in finding.first


def test_what_is_no_bundle_is_refused(tmp_path, bundle):
    with pytest.raises(DataError, match="is no replay bundle"):
        read_info(tmp_path)
    (bundle / "replay.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(DataError, match="version 99; this program reads 1"):
        read_info(bundle)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"label": "exec"}, "label"),
        ({"std": [0.5, 0.0, 0.5]}, "std.1"),
        ({"mean": [1e400]}, "finite"),
        ({"plan": {"global_batch_size": "2"}}, "plan.global_batch_size"),
        ({"config": []}, "config"),
        ({"step": None}, "step"),
    ],
)
def test_a_bundle_is_of_the_types_that_were_written(bundle, change, problem):
    text = json.loads((bundle / "replay.json").read_text()) | change
    (bundle / "replay.json").write_text(json.dumps(text).replace("Infinity", "1e400"))
    with pytest.raises(DataError, match=rf"replay\.json cannot be read .*{problem}"):
        read_info(bundle)


def test_batches_of_others_are_read_as_data(bundle):
    entries = bundle / "rank_0.json"
    good = entries.read_text()
    for text in ('{"epoch": 1}', '[{"epoch": 1}]', "[" * 9999, good.replace('"seed": 3', '"seed": -1')):
        entries.write_text(text)
        with pytest.raises(DataError, match=r"rank_0\.json cannot be read"):
            read_micro_batches(bundle)
    entries.write_text(good.replace('"image 7"', '"image 7", "image 8"'))
    with pytest.raises(DataError, match="does not fit the batches"):
        read_micro_batches(bundle)
    entries.write_text(good)
    tensors = bundle / "rank_0_batch_0.safetensors"
    tensors.write_bytes(b"no tensors")
    with pytest.raises(DataError, match="is damaged"):
        read_micro_batches(bundle)
    tensors.unlink()
    os.mkfifo(tensors)
    with pytest.raises(DataError, match="is no file"):
        read_micro_batches(bundle)
    (bundle / "weights.safetensors").write_bytes(b"no tensors")
    with pytest.raises(DataError, match="is damaged"):
        load_weights(bundle, Module())
