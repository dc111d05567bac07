"""Segmentation from two folders to a task model: learnt, drawn, resumed, loaded."""

import numpy as np
import pytest
import torch
from PIL import Image
from runs import CPU

from finetune.config import FinetuneConfig
from finetune.run import run as finetune
from finetune.task import Subject
from finetune.tasks.registry import TASKS
from swinmim.checkpoint.encoder import load_encoder, load_manifest
from swinmim.checkpoint.task_model import load_head
from swinmim.composition import check
from swinmim.errors import DataError

pytestmark = pytest.mark.slow
SMALL = (
    "ckpt=null",
    "model=swinv2_demo",
    "model.embed_dim=16",
    "model.head_dim=8",
    "resolution=[32,48]",
    "global_batch_size=8",
    "batch_size=4",
    "optim.base_lr=0.1",
    "callbacks.predictions.num_images=2",
)


@pytest.fixture
def run_segment(cache):
    def run(output_dir, *overrides):
        small = (*CPU, *SMALL, "trainer.max_epochs=2", f"data.cache_dir={cache}", f"output_dir={output_dir}")
        config = check("finetune", FinetuneConfig, [*small, *overrides])
        output_dir.mkdir(parents=True, exist_ok=True)
        return finetune(config, output_dir)

    return run


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Bright squares on dark ground, of many sizes; some pixels without a class."""
    root, rng = tmp_path_factory.mktemp("pairs"), np.random.default_rng(0)
    for part, count in (("train", 24), ("val", 7)):
        for folder in ("images", "masks"):
            (root / part / folder).mkdir(parents=True)
        for number in range(count):
            height, width = rng.integers(30, 70, 2)
            mask = np.zeros((height, width), np.uint8)
            top, left = rng.integers(0, 20, 2)
            mask[top : top + 18, left : left + 18] = 1
            image = rng.integers(0, 90, (height, width, 3)) + 150 * mask[..., None]
            mask[0] = 255
            Image.fromarray(image.astype(np.uint8)).save(root / part / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("ground\nsquare\n")
    return root


@pytest.mark.parametrize("name", ["segment", "segment_light"])
def test_it_learns_draws_and_leaves_a_model(tmp_path, run_segment, pairs, name):
    arguments = (f"task={name}", f"data.path={pairs}", "task.width=16")
    metrics = run_segment(tmp_path / "run", *arguments, "trainer.max_epochs=6", "trainer.val_every_epochs=3")
    assert metrics["val/miou"] > 0.6  # ground alone: below 0.5
    assert metrics["val/classes"] == 2
    drawn = sorted(path.name for path in (tmp_path / "run" / "predictions").iterdir())
    assert drawn == ["epoch_0003.png", "epoch_0006.png"]
    manifest = load_manifest(tmp_path / "run")
    assert manifest.task["classes"] == ["ground", "square"]
    settings = manifest.recipe["task"]
    kind = TASKS[manifest.task["kind"]]
    task = kind(kind.Settings(**settings | {"scale": tuple(settings["scale"])}), Subject(("ground", "square")))
    encoder = load_encoder(tmp_path / "run").eval()
    head = task.head(encoder).eval()
    load_head(tmp_path / "run", head)
    with torch.no_grad():
        assert head(task.features(encoder, torch.zeros(1, 3, 32, 48))).shape == (1, 2, 32, 48)


def test_a_resumed_run_is_the_same(tmp_path, run_segment, pairs):
    arguments = ("task=segment", f"data.path={pairs}", "task.width=16")
    whole = run_segment(tmp_path / "whole", *arguments, "callbacks.checkpoint.keep_every_epochs=1")
    first = min((tmp_path / "whole" / "checkpoints").glob("step_*"))
    resumed = run_segment(tmp_path / "resumed", *arguments, f"resume={first}")
    assert {k: v for k, v in resumed.items() if k.startswith(("val/", "train/"))} == {
        k: v for k, v in whole.items() if k.startswith(("val/", "train/"))
    }


def test_a_folder_without_masks_is_answered_with_what_is_missing(tmp_path, run_segment, images):
    with pytest.raises(DataError, match=r"This task needs mask with each image.*DIR/train/masks beside DIR/train/im"):
        run_segment(tmp_path / "run", "task=segment", f"data.path={images}")
