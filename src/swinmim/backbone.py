"""The encoder as a backbone of transformers, for its dense heads: UPerNet, Mask2Former, D-FINE, RT-DETRv2.

Its own TimmBackbone hands them maps with the channels last; its Swinv2Backbone lacks the main-branch norms of H and G,
and lets tokens attend to padding. Importing this file needs the extra `transformers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from swinmim.checkpoint.encoder import encoder_of, load_stored, open_encoder
from swinmim.checkpoint.manifest import Manifest
from swinmim.errors import ConfigError
from swinmim.models.choices import Recompute
from swinmim.models.errors import nearest
from swinmim.models.swinv2 import SwinV2

try:
    from transformers import AutoBackbone, AutoConfig, PreTrainedConfig, PreTrainedModel
    from transformers.backbone_utils import BackboneConfigMixin, BackboneMixin
    from transformers.modeling_outputs import BackboneOutput
except ModuleNotFoundError as error:
    raise ConfigError(
        f"swinmim.hf_backbone needs {error.name}, which is not installed: pip install 'swinmim[transformers]'"
    ) from error


class EncoderBackboneConfig(BackboneConfigMixin, PreTrainedConfig):  # type: ignore[misc]
    """What rebuilds the backbone, in a head's config.json too.

    encoder: `Manifest` of the encoder without its history. weights: the folder that a new backbone takes its weights
    from; it is not saved.
    """

    model_type = "swinmim_encoder"

    encoder: dict[str, Any] | None = None
    weights: str | None = None
    drop_path: float = 0.0
    recompute: str | list[str] | tuple[str, ...] = "none"
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        depths = self.encoder["architecture"]["depths"] if self.encoder else ()
        self.stage_names = [f"stage{number}" for number in range(1, len(depths) + 1)]
        self.set_output_features_output_indices(
            out_features=kwargs.pop("out_features", self._out_features), out_indices=kwargs.pop("out_indices", None)
        )
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """What is saved: a head's own file has all weights, and the path is nobody else's business."""
        return {**super().to_dict(), "weights": None}

    def set_output_features_output_indices(self, out_features: Any, out_indices: Any) -> None:
        if self.stage_names:  # transformers also makes configs of nothing, to compare with
            super().set_output_features_output_indices(out_features=out_features, out_indices=out_indices)


class EncoderBackbone(BackboneMixin, PreTrainedModel):  # type: ignore[misc]
    """An encoder that answers as transformers' backbones do: `feature_maps`, a (B, C_s, H_s, W_s) for each of
    `out_features`, with strides from the patch size on, without the final norm.

    Images of another size than the encoder's keep its first window; what does not fit is padded, see `SwinV2.resize`.
    """

    config_class = EncoderBackboneConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    has_attentions = False

    def __init__(self, config: EncoderBackboneConfig) -> None:
        super().__init__(config)
        options: dict[str, Any] = {"drop_path": config.drop_path, "recompute": config.recompute}
        manifest = Manifest.model_validate(config.encoder)
        if config.weights is None:
            self.encoder = encoder_of(manifest, **options)
            if torch.get_default_device().type != "meta":
                self.encoder.materialise()
        else:
            self.encoder = load_stored(open_encoder(config.weights), resolution=manifest.resolution, **options)
        self.window = self.encoder.stages[0].window
        # No head sees it, and DistributedDataParallel stops at a parameter that gets no gradient.
        self.encoder.norm.requires_grad_(False)
        self.num_features = list(self.encoder.architecture.stage_dims)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """transformers calls it where it makes the memory; weights are loaded or drawn already, tables are not."""
        if isinstance(module, SwinV2):
            module.resize(module.resolution, self.window, pad=True)

    def forward(
        self,
        pixel_values: Tensor,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """(B, C, H, W), normalised by the folder's mean and std -> BackboneOutput, or a tuple without `return_dict`."""
        if tuple(pixel_values.shape[2:]) != self.encoder.resolution:
            self.encoder.resize(tuple(pixel_values.shape[2:]), self.window, pad=True)
        maps = dict(zip(self.stage_names, self.encoder.features(pixel_values), strict=True))
        chosen = tuple(maps[name] for name in self.out_features)
        if return_dict is False:
            return (chosen,)
        return BackboneOutput(feature_maps=chosen, hidden_states=tuple(maps.values()) if output_hidden_states else None)


def register() -> None:
    """Tell transformers' Auto classes of it, so that `from_pretrained` reads heads that were saved with one."""
    AutoConfig.register(EncoderBackboneConfig.model_type, EncoderBackboneConfig, exist_ok=True)
    AutoBackbone.register(EncoderBackboneConfig, EncoderBackbone, exist_ok=True)


def hf_backbone(
    path: str | Path,
    *,
    out_features: Sequence[str] | None = None,
    resolution: int | Sequence[int] | None = None,
    drop_path: float = 0.0,
    recompute: Recompute | Sequence[Recompute] = "none",
) -> EncoderBackbone:
    """A transformers backbone with the weights of an encoder folder, a run, or published weights.

    Its `config` is the `backbone_config` of a head, which then makes its own backbone with the same weights.
    out_features: "stage1" (the finest map) to "stage4"; all by default. The others: see `load_encoder` and `SwinV2`.
    Raises CheckpointError as `load_encoder`; ConfigError: no such stage, or transformers is not installed.
    """
    stored = open_encoder(path)
    stages = [f"stage{number}" for number in range(1, stored.manifest.architecture.num_stages + 1)]
    for name in out_features or ():
        if name not in stages:
            raise ConfigError(f"out_features are of {', '.join(stages)}; got {name!r}.{nearest(name, stages)}")
    encoder = encoder_of(stored.manifest, resolution=resolution)
    described = stored.manifest.model_copy(
        update={
            "resolution": encoder.resolution,
            "windows": tuple(stage.window for stage in encoder.stages),
            "recipe": {}, "data": {}, "metrics": {}, "parent": None, "parents": (), "task": None,
            "versions": {}, "created": "",
        }
    )  # fmt: skip
    register()
    config = EncoderBackboneConfig(
        encoder=described.model_dump(mode="json"),
        weights=str(Path(path).absolute()),
        out_features=[name for name in stages if out_features is None or name in out_features],
        drop_path=drop_path,
        recompute=recompute if isinstance(recompute, str) else list(recompute),
    )
    return EncoderBackbone(config)
