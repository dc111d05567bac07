"""Settings of a fine-tuning run: the root schema of conf/finetune.yaml."""

import dataclasses

from data.config import LabelledDataConfig
from finetune.tasks.registry import FROZEN, TASKS, AnyTaskConfig
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
        kind = self.task.kind
        if kind in FROZEN:
            _check_frozen(self)
        if self.data.labels_per_class is not None and (TASKS | FROZEN)[kind].needs not in ("label", "clip"):
            raise ValueError(
                f"data.labels_per_class picks images by their one class, which task={kind} does not have. "
                "Set it to null."
            )


def _check_frozen(config: FinetuneConfig) -> None:
    task = f"task={config.task.kind} measures the encoder as it is"
    if config.resume not in (None, "auto"):
        raise ValueError(f"{task}: there is nothing to resume from. Remove resume={config.resume}.")
    if config.allow_drift:
        raise ValueError(f"{task}: nothing is resumed, so allow_drift has no effect. Remove it.")
    if config.strategy.kind != "single" or config.trainer.world_size > 1:
        raise ValueError(
            f"{task}, in one process on one device: each image is looked at once. Take strategy=single and "
            "trainer.devices=1, and start one process."
        )
    if config.compile:
        raise ValueError(f"{task}, and compile is for training steps. Add compile=false.")
    if config.global_batch_size < 2:
        raise ValueError(f"{task} by heads with batch norm: global_batch_size is at least 2, got 1.")
