"""The preparation of a batch: one graph, the same numbers as step by step, and a training step that never waits."""

from functools import partial

import pytest
import torch
from no_sync import NoSync

from data.loading.normalise import normalise, random_flip
from pretrain.masking import random_mask
from pretrain.module import PretrainModule
from pretrain.prepare import compiled_prepare_step, prepare_step
from pretrain.simmim import SimMIM, make_target
from swinmim.models.swinv2 import create_encoder

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
OPTIONS = {"flip": True, "grid": (2, 3), "mask_ratio": 0.6}
TARGETS = pytest.mark.parametrize("target", ["raw", "local_norm"])


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (4, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


SEEDS = torch.tensor([1, 2, 2**40, 7])


@TARGETS
def test_equals_its_parts(images, target):
    expected = normalise(random_flip(images, SEEDS), MEAN, STD)
    found = prepare_step(images, SEEDS, MEAN, STD, **OPTIONS, target=target)
    assert torch.equal(found[0], expected)
    assert torch.equal(found[1], random_mask(SEEDS, (2, 3), 0.6))
    assert torch.equal(found[2], make_target(expected, target))
    unflipped, _, _ = prepare_step(images, SEEDS, MEAN, STD, **OPTIONS | {"flip": False}, target=target)
    assert torch.equal(unflipped, normalise(images, MEAN, STD))


@TARGETS
@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.slow
def test_one_graph_without_a_break(images, target):
    step = partial(prepare_step, **OPTIONS, target=target)
    found = torch._dynamo.explain(step)(images, SEEDS, MEAN, STD)
    assert (found.graph_count, found.graph_break_count) == (1, 0)
    compiled = compiled_prepare_step("aot_eager")(images, SEEDS, MEAN, STD, **OPTIONS, target=target)
    for a, b in zip(compiled, step(images, SEEDS, MEAN, STD), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@TARGETS
@pytest.mark.usefixtures("fresh_compiler")
def test_inductor_draws_the_same_masks_and_flips(images, target):
    found = compiled_prepare_step()(images, SEEDS, MEAN, STD, **OPTIONS, target=target)
    expected = prepare_step(images, SEEDS, MEAN, STD, **OPTIONS, target=target)
    assert torch.equal(found[1], expected[1])
    assert torch.allclose(found[0], expected[0], atol=1e-6)
    assert torch.allclose(found[2], expected[2], atol=1e-4)


@TARGETS
@pytest.mark.parametrize("autocast", [False, True])
def test_a_given_target_changes_no_bit(images, target, autocast):
    torch.manual_seed(0)
    model = SimMIM(create_encoder("swinv2_demo", resolution=64, embed_dim=32, head_dim=16), target=target)
    pixels, mask, goal = prepare_step(images[:, :, :64], SEEDS, MEAN, STD, **OPTIONS | {"grid": (2, 2)}, target=target)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        assert torch.equal(model(pixels, mask)[0], model(pixels, mask, goal)[0])


class Step(PretrainModule):
    """`PretrainModule` without Lightning around it."""

    def __init__(self, model: SimMIM) -> None:
        torch.nn.Module.__init__(self)
        self.model, self.flip, self.prepare_training = model, True, prepare_step
        self.register_buffer("mean", MEAN)
        self.register_buffer("std", STD)

    def log_training(self, loss):
        assert loss.requires_grad

    def log(self, name, value, **options):
        assert name == "health/skipped_samples"


def batch(images: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"image": images, "seed": SEEDS, "index": SEEDS, "substituted": torch.zeros(4, dtype=torch.bool)}


@TARGETS
@pytest.mark.parametrize("attention", ["reference", "sdpa", "chunked"])
def test_the_training_step_never_waits(images, target, attention):
    options = {"embed_dim": 32, "head_dim": 16, "attention": attention, "drop_path": 0.3}
    encoder = create_encoder("swinv2_demo", resolution=(64, 96), window=4, **options)
    step = Step(SimMIM(encoder, target=target)).train()
    with NoSync():
        step.training_step(batch(images), 0).backward()
    assert step.model.mask_token.grad.abs().sum() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@TARGETS
def test_the_training_step_never_waits_on_a_gpu(images, target):
    encoder = create_encoder("swinv2_demo", resolution=(64, 96), window=4, embed_dim=32, head_dim=16)
    step = Step(SimMIM(encoder, target=target)).train().cuda()
    on_gpu = {name: tensor.cuda() for name, tensor in batch(images).items()}
    step.training_step(on_gpu, 0).backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = step.training_step(on_gpu, 0)
        loss.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
