"""Tasks and modules of fine-tuning, small, from the settings that conf/ has for them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import yaml
from made_clips import encode_clip, provide_ffmpeg
from torch import nn

from data.codecs.targets import Boxes, Target
from data.loading.batch import Batch
from data.loading.dataset import together
from data.loading.views import View
from finetune.config import FinetuneConfig
from finetune.model import TaskModel
from finetune.module import TaskModule
from finetune.task import Subject, Task
from finetune.tasks.registry import TASKS
from swinmim.composition import check
from swinmim.config import CONF_DIR
from swinmim.models.swinv2 import SwinV2, create_encoder
from swinmim.training.module import Plan, Provenance

PLAN = Plan(global_batch_size=4, accumulation=1, steps_per_epoch=10, total_steps=100)
PROVENANCE = Provenance(mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))


def made_task(
    name: str,
    classes: Sequence[str] = ("a", "b"),
    *,
    facts: dict[str, Any] | None = None,
    channels: int = 3,
    bits: int = 8,
    **changed: Any,
) -> Any:
    """The task of conf/task/NAME.yaml, with some settings changed."""
    settings = yaml.safe_load((CONF_DIR / "task" / f"{name}.yaml").read_text()) | changed
    task = TASKS[settings["kind"]]
    lists = {key: tuple(value) for key, value in settings.items() if isinstance(value, list)}
    subject = Subject(tuple(classes), channels, bits, facts or {})
    return task(task.Settings(**settings | lists), subject)


def made_batch(task: Task[Any], view: View, count: int = 4) -> Batch:
    """What the loader would give of random images of 40 x 50 with targets of the task's kind; the last is not valid."""
    rng = np.random.default_rng(0)
    classes = len(task.subject.classes)
    images, targets = [], []
    for seed in range(count):
        image, target = view(_made_image(task, view, rng), _made_target(task.needs, classes, rng), seed)
        images.append(image)
        targets.append(target)
    native = getattr(view, "native", False)
    batch: Batch = {
        "image": images if native else torch.stack(images),
        "seed": torch.arange(count),
        "index": torch.arange(count),
        "substituted": torch.zeros(count, dtype=torch.bool),
        "label": torch.arange(count) % classes,
        "valid": torch.arange(count) < count - 1,
        "size": torch.tensor([[40, 50]] * count),
    }
    if targets[0] is not None:
        batch["target"] = together(targets)
    return batch


def _made_image(task: Task[Any], view: View, rng: np.random.Generator) -> Any:
    """What the dataset would give the view."""
    if hasattr(view, "open"):
        provide_ffmpeg()
        return view.open(encode_clip(rng.integers(0, 256, (12, 40, 50, 3), dtype=np.uint8), "avi"), 10_000)
    return rng.integers(0, 256, (40, 50, task.subject.channels), dtype=np.uint8)


def _made_target(needs: str, classes: int, rng: np.random.Generator) -> Target | None:
    match needs:
        case "labels":
            return rng.random(classes) < 0.5
        case "value":
            return rng.random(classes, dtype=np.float32)
        case "mask":
            return rng.integers(0, classes, (40, 50), dtype=np.uint8)
        case "boxes":
            boxes = np.array([[2, 3, 20, 25], [15, 10, 30, 24]], np.float32)
            return Boxes(boxes, rng.integers(0, classes, 2), np.zeros(2, np.bool_))
    return None


def made_encoder() -> SwinV2:
    encoder = create_encoder("swinv2_demo", resolution=32, embed_dim=16, head_dim=8)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, 0.1, 0.3)
    return encoder


def made_module(task: Task[Any], kind: type[TaskModule] = TaskModule) -> TaskModule:
    """A task's module around a small encoder, without a trainer."""
    config = check("finetune", FinetuneConfig, ["ckpt=x", "data.path=x", "output_dir=x"])
    return kind(TaskModel(made_encoder(), task), task, config, PLAN, PROVENANCE)
