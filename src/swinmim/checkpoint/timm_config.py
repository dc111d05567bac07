"""timm's own description of our encoder, so that timm can build it from a folder."""

from __future__ import annotations

from typing import Any

from swinmim.checkpoint.manifest import Manifest
from swinmim.models.swinv2 import SwinV2

# The registered entry only names the family; model_args below overrides all that it sets.
_TIMM_ENTRIES = {
    (96, 6): "swinv2_tiny_window8_256",
    (96, 18): "swinv2_small_window8_256",
    (128, 18): "swinv2_base_window12_192",
    (192, 18): "swinv2_large_window12_192",
}
_ANY_ENTRY = "swinv2_tiny_window8_256"

CLASSIFIER = "head.fc"
"""timm's name of its head, one linear layer on the pooled features."""


def timm_obstacle(encoder: SwinV2) -> str | None:
    """Why timm's SwinTransformerV2 cannot express this encoder, or None."""
    architecture = encoder.architecture
    if architecture.extra_norms:
        return (
            f"{architecture.name} has {architecture.extra_norms} norms on the main branch (extra_norm_every="
            f"{architecture.extra_norm_every}) that timm's SwinTransformerV2 lacks"
        )
    if encoder.position_bias == "linear":
        return "timm's SwinTransformerV2 has no linear position bias"
    cut = any(side % architecture.patch_size for side in encoder.resolution)
    if cut or any(stage.padded != stage.grid for stage in encoder.stages):
        return f"{encoder.resolution} px needs padding, which timm's tokens attend to; resize to a size that fits"
    return None


def timm_config(encoder: SwinV2, manifest: Manifest, num_classes: int) -> dict[str, Any]:
    """config.json of a timm local-dir model, which transformers reads too. The encoder must have no `timm_obstacle`.

    num_classes: of the linear classifier beside the encoder, 0 without. Names of them are the manifest's.
    """
    architecture = encoder.architecture
    depth = architecture.depths[2] if architecture.num_stages > 2 else 0
    windows = [list(stage.window) for stage in encoder.stages]
    # timm takes a pretrained window of 0 for "measure in the window in use".
    renormalised = encoder.position_bias == "log_renormalised"
    pretrained = [0] * len(windows) if renormalised else [list(window) for window in encoder.pretrained_windows]
    return {
        "architecture": _TIMM_ENTRIES.get((architecture.embed_dim, depth), _ANY_ENTRY),
        "num_classes": num_classes,
        **({"label_names": names} if (names := class_names(manifest, num_classes)) else {}),
        "num_features": encoder.num_features,
        "global_pool": "avg",
        "model_args": {
            "img_size": list(encoder.resolution),
            "patch_size": architecture.patch_size,
            "in_chans": encoder.in_chans,
            "embed_dim": architecture.embed_dim,
            "depths": list(architecture.depths),
            "num_heads": list(architecture.num_heads),
            "window_size": windows,
            "mlp_ratio": architecture.mlp_ratio,
            "pretrained_window_sizes": pretrained,
        },
        "pretrained_cfg": {
            "num_classes": num_classes,
            "input_size": [encoder.in_chans, *encoder.resolution],
            "fixed_input_size": True,
            "pool_size": list(encoder.stages[-1].grid),
            **manifest.evaluation.model_dump(),
            "mean": list(manifest.mean),
            "std": list(manifest.std),
            "first_conv": "patch_embed.proj",
            "classifier": CLASSIFIER,
        },
    }


def class_names(manifest: Manifest, num_classes: int) -> list[str]:
    """What the classifier's outputs are called, in their order; empty where the manifest does not name each of them."""
    names = (manifest.task or {}).get("classes")
    return [str(name) for name in names] if isinstance(names, list | tuple) and len(names) == num_classes else []
