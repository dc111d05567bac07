"""Parameter names of SwinV2 in other libraries, to ours (timm's) and back. Tensors pass through untouched.

Official and Hugging Face models keep the patch merging at the end of a stage, timm and we at the start of the next one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from swinmim.errors import CheckpointError

Layout = Literal["official", "timm", "huggingface"]

TABLES = ("relative_coords_table", "relative_position_index", "attn_mask", "k_bias")  # computed, not learnt
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.)+")

_HUGGINGFACE = (  # ours, theirs; ^ and $ are the ends of a name
    ("^norm.", "^layernorm."),
    ("^head.fc.", "^classifier."),
    ("^patch_embed.proj.", "^embeddings.patch_embeddings.projection."),
    ("^patch_embed.norm.", "^embeddings.norm."),
    ("^mask_token$", "^embeddings.mask_token$"),
    ("^layers.", "^encoder.layers."),
    (".attn.proj.", ".attention.output.dense."),
    (".attn.cpb_mlp.", ".attention.self.continuous_position_bias_mlp."),
    (".attn.q_bias$", ".attention.self.query.bias$"),
    (".attn.v_bias$", ".attention.self.value.bias$"),
    (".attn.", ".attention.self."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    # Misleading names: both norms come after their branch, as ours do.
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
)


def find_layout(names: Mapping[str, object]) -> Layout:
    """Whose names these are. Raises CheckpointError for weights of another architecture, naming it where known."""
    stripped = {_WRAPPERS.sub("", name).removeprefix("encoder.") for name in names}
    if any("meta_mlp" in name or name.endswith((".attn.tau", "norm3.weight")) for name in stripped) and any(
        name.startswith("stages.") for name in stripped
    ):
        raise CheckpointError(
            "These are weights of swinv2_cr, another network (no 16 sigmoid, raw coordinates, other norms): they "
            "cannot be converted to SwinV2. Take a swinv2_* model."
        )
    if any("continuous_position_bias_mlp" in name for name in stripped):
        return "huggingface"
    if any(name.endswith("relative_position_bias_table") for name in stripped):
        raise CheckpointError(
            "These are weights of Swin V1 (a table of position biases, no logit scale); SwinV2 has a position bias MLP "
            "and cosine attention, so they cannot be converted. Take a SwinV2 model."
        )
    if not any(re.search(r"\.attn\.(cpb|rpe)_mlp\.", name) for name in stripped):
        shown = ", ".join(list(names)[:4])
        raise CheckpointError(
            f"These are not weights of a SwinV2: no layers.*.attn.cpb_mlp among {len(names)} tensors ({shown}, ...)."
        )
    return "official" if any(name.startswith("layers.0.downsample.") for name in stripped) else "timm"


def to_ours(state: Mapping[str, Tensor], layout: Layout | None = None) -> dict[str, Tensor]:
    """Rename to our names; tables that we compute are left out. SimMIM's mask token and decoder keep their names.

    layout: of the names, found out if not given; needed for models of a single stage.
    """
    layout = layout or find_layout(state)
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = _WRAPPERS.sub("", name)
        if layout == "huggingface":
            name = _rename(name.removeprefix("swinv2."), (pair[::-1] for pair in _HUGGINGFACE))
        name = name.removeprefix("encoder.").replace(".rpe_mlp.", ".cpb_mlp.")
        if name.rsplit(".", 1)[-1] in TABLES:
            continue
        if layout != "timm":
            name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", name)
        name = re.sub(r"^head\.(weight|bias)$", r"head.fc.\1", name)
        out[name] = tensor
    return _join_qkv(out) if layout == "huggingface" else out


def to_huggingface(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to those of Swinv2Model (`classifier.*` for the head, which Swinv2ForImageClassification adds)."""
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name)
        if name.endswith(".attn.qkv.weight"):
            for part, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                out[_rename(name.replace("qkv", part), _HUGGINGFACE)] = third
        else:
            out[_rename(name, _HUGGINGFACE)] = tensor
    return out


def _join_qkv(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        match = re.search(r"^(.*\.attn\.)(query|key|value)\.weight$", name)
        if match is None:
            out[name] = tensor
        elif match[2] == "query":
            parts = [state.get(f"{match[1]}{part}.weight") for part in ("query", "key", "value")]
            present = [part for part in parts if part is not None]
            if len(present) < 3:
                raise CheckpointError(f"{match[1]} lacks its key or value; the checkpoint is incomplete.")
            out[f"{match[1]}qkv.weight"] = torch.cat(present)
    return out


def _rename(name: str, rules: Iterable[Sequence[str]]) -> str:
    name = f"^{name}$"
    for old, new in rules:
        name = name.replace(old, new)
    return name[1:-1]
