"""Encoder and head of a task, as one network."""

from typing import Any

from torch import Tensor, nn

from finetune.task import Task
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
