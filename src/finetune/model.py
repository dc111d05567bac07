"""The encoder that the settings name, encoder and head of a task as one network, and what it takes."""

from typing import Any

from torch import Tensor, nn

from data.loading.normalise import normalise
from data.loading.stats import Stats, resolve_stats
from data.shards.set import SampleSet
from finetune.config import FinetuneConfig
from finetune.task import Task
from swinmim.checkpoint.encoder import load_encoder, load_manifest
from swinmim.config import ModelConfig, config_errors
from swinmim.models.architecture import get_architecture
from swinmim.models.swinv2 import SwinV2


class TaskModel(nn.Module):
    """Encoder and head of a task: parameters encoder.* and head.*."""

    def __init__(self, encoder: SwinV2, task: Task[Any]) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = task.head(encoder)
        self.features = task.features

    def forward(self, images_BCHW: Tensor, *taught: Any) -> Any:
        """Normalised images (B, C, H, W), and in training what `Task.teach` gave, -> what the head gives."""
        return self.head(self.features(self.encoder, images_BCHW), *taught)


def build_encoder(config: FinetuneConfig) -> SwinV2:
    """The pretrained encoder at the run's resolution, or a new one for the from-scratch baseline.

    Raises ConfigError: a resolution that does not fit; CheckpointError: `ckpt` is no encoder folder, or does not cover
    the encoder.
    """
    with config_errors():
        if config.ckpt is not None:
            return load_encoder(config.ckpt, **config.encoder_options())
        assert isinstance(config.model, ModelConfig)
        return SwinV2(get_architecture(config.model.name, **config.model.overrides()), **config.encoder_options())


def normalisation(config: FinetuneConfig, shards: SampleSet) -> Stats:
    """Mean and deviation of a run on a set; `auto` means those that the encoder was pretrained with."""
    known = None
    if config.ckpt is not None and config.data.stats == "auto":
        origin = load_manifest(config.ckpt)
        known = origin.mean, origin.std
    return resolve_stats(config.data, shards, known)


def prepared(images: Tensor | list[Tensor], mean: Tensor, std: Tensor) -> Any:
    """uint8 (B, H, W, C) -> normalised float32 (B, C, H, W); of a list a list of (C, H_i, W_i)."""
    if isinstance(images, list):
        return [normalise(image[None], mean, std)[0] for image in images]
    return normalise(images, mean, std)
