"""Settings of a fine-tuning run: the root schema of conf/finetune.yaml."""

import dataclasses

from data.config import LabelledDataConfig
from finetune.tasks.registry import TASKS, AnyTaskConfig
from swinmim.config import ModelConfig, schema
from swinmim.training.callback_settings import PredictionsConfig
from swinmim.training.settings import CallbacksConfig, RunConfig


@schema
class FinetuneCallbacksConfig(CallbacksConfig):
    predictions: PredictionsConfig


@schema
class FinetuneConfig(RunConfig):
    ckpt: str | None = dataclasses.field(
        metadata={"required": "a run directory or an encoder folder, or null to train from scratch (with model=...)"}
    )
    model: ModelConfig | None = None
    """Architecture of the from-scratch baseline; the encoder folder decides otherwise."""
    task: AnyTaskConfig
    data: LabelledDataConfig
    callbacks: FinetuneCallbacksConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ckpt is None and self.model is None:
            raise ValueError("ckpt=null trains from scratch and needs an architecture: add model=swinv2_b (or another)")
        if self.ckpt is not None and self.model is not None:
            raise ValueError(
                "model has no effect with ckpt: the encoder folder holds the architecture. Remove model=... "
                "(debug=toy brings one: there, remove ckpt=...)"
            )
        if self.data.labels_per_class is not None and TASKS[self.task.kind].needs != "label":
            raise ValueError(
                f"data.labels_per_class picks images by their one class, which task={self.task.kind} does not have. "
                "Set it to null."
            )
