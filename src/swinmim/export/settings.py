"""What `scripts/export.py` may be told; read before torch is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from omegaconf import OmegaConf

from swinmim.config import Count, load, schema
from swinmim.errors import ConfigError

Format = Literal["timm", "hf", "onnx", "torch_export"]
Part = Literal["encoder", "simmim", "task"]


@schema
class ExportConfig:
    format: Format = "timm"
    part: Part | None = None
    """The encoder alone, with mask token and decoder, or with the head of its task. null: task where there is a head,
    else encoder; in timm's format encoder and a linear head."""
    resolution: Count | tuple[Count, Count] | None = None
    """Of a graph, whose images have one size, pixels; null is the source's."""

    def __post_init__(self) -> None:
        if self.part is not None and self.format == "timm":
            raise ValueError(
                "part has no effect with format=timm, which copies the encoder and a linear head. Drop it."
            )
        if self.part == "simmim" and self.format != "hf":
            raise ValueError("part=simmim is for format=hf, which has a model for it. Take part=encoder, or format=hf.")
        if self.resolution is not None and self.format not in ("onnx", "torch_export"):
            raise ValueError(
                "resolution is for format=onnx and torch_export, whose images have one size; models of timm and "
                "transformers are resized where they are loaded. Drop it."
            )


def read_settings(words: Sequence[str]) -> ExportConfig:
    """Of key=value words. Raises ConfigError: a word is none, a key or value is unknown, or they contradict."""
    for word in words:
        if "=" not in word.strip("="):
            raise ConfigError(f"settings are key=value (format=hf, part=encoder, resolution=384); got {word!r}.")
    return load(ExportConfig, OmegaConf.from_dotlist(list(words)))
