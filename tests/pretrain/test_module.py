"""Validation and pictures: what the network knows, beside what can be known without it."""

import pytest
import torch

from pretrain.config import PretrainConfig
from pretrain.masking import upsample_mask
from pretrain.module import PretrainModule
from pretrain.run import PretrainParts, build_model
from swinmim.composition import check
from swinmim.training.module import Plan, Provenance

COLUMNS = {
    "raw": ["input", "masked", "prediction", "composite"],
    "local_norm": ["input", "masked", "target", "prediction", "composite"],
}
TARGETS = pytest.mark.parametrize("target", list(COLUMNS))


def settings(target):
    small = ["model.embed_dim=16", "model.head_dim=8", "trainer.accelerator=cpu", "logger=none"]
    return check("pretrain", PretrainConfig, ["experiment=demo", *small, f"mim.target={target}", "output_dir=unused"])


@pytest.fixture
def make():
    def module(target):
        torch.manual_seed(0)
        config = settings(target)
        plan = Plan(global_batch_size=4, accumulation=1, steps_per_epoch=1, total_steps=1)
        provenance = Provenance(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
        module = PretrainModule(build_model(config), config, plan, provenance).eval()
        for parameter in module.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        return module

    return module


def batch(images):
    return {
        "image": images,
        "seed": torch.arange(len(images)),
        "valid": torch.tensor([True] * (len(images) - 1) + [False]),
        "substituted": torch.zeros(len(images), dtype=torch.bool),
    }


def pictures(count=3):
    return torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@TARGETS
def test_hidden_pixels_are_drawn_only_where_the_picture_says_so(make, target):
    module, images = make(target), pictures()
    hidden = upsample_mask(module.prepare(batch(images))[1], 4).unsqueeze(-1)
    other = torch.where(hidden, 255 - images, images)
    with torch.inference_mode():
        (first, shown), (second, _) = (module.reconstruct(batch(pixels)) for pixels in (images, other))
    assert list(first) == COLUMNS[target]
    assert shown.startswith(f"target {target}: ")
    for title in first:
        assert first[title].min() >= 0
        assert first[title].max() <= 1
        knows = title in ("input", "target")
        assert torch.equal(first[title], second[title]) is not knows, title
    visible = ~hidden.permute(0, 3, 1, 2).expand_as(first["input"])
    assert torch.allclose(first["composite"][visible], first["input"][visible])
    assert torch.allclose(first["input"], images.permute(0, 3, 1, 2) / 255, atol=1e-5)


@TARGETS
def test_validation_measures_the_network_and_the_guesses_alike(make, target, monkeypatch):
    module, images = make(target), pictures()
    monkeypatch.setattr(module, "log_skipped", lambda *_: None)
    with torch.inference_mode():
        module.validation_step(batch(images), 0)
        normal, mask, targets = module.prepare(batch(images))
        guesses = module.model(normal, mask)[1], *module.model.guesses(normal, upsample_mask(mask, 4))
    names = {"raw": "mean_baseline", "local_norm": "zero_baseline"}
    assert list(module.metrics) == ["recon_loss", names[target], "blur_baseline"]
    for metric, guess in zip(module.metrics.values(), guesses, strict=True):
        errors = []
        for number in range(2):  # the third image is padding
            hidden = upsample_mask(mask, 4)[number].expand(3, -1, -1)
            errors.append((guess - targets)[number][hidden].abs().mean())
        assert metric.compute() == pytest.approx(torch.stack(errors).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("target", "values", "expected"),
    [
        (
            "raw",
            {"recon_loss": 0.3, "mean_baseline": 0.68, "blur_baseline": 0.4},
            "held-out masked L1 0.3000, 25.0% below the better guess without a network: painting the mean visible "
            "colour gives 0.6800, blurring the visible pixels gives 0.4000",
        ),
        (
            "local_norm",
            {"recon_loss": 0.7759, "zero_baseline": 0.6401, "blur_baseline": 0.6152},
            "held-out masked L1 0.7759, not below the better guess without a network: zero (the local mean) gives "
            "0.6401, blurring the visible normalised pixels gives 0.6152",
        ),
    ],
)
def test_the_last_line_judges_against_guesses_of_the_same_target(tmp_path, target, values, expected):
    parts = PretrainParts(settings(target))
    lines = parts.verdict({f"val/{name}": value for name, value in values.items()}, tmp_path).splitlines()
    assert lines[0] == expected
    assert parts.verdict({}, tmp_path).startswith("encoder")
