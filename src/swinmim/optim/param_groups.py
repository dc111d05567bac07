"""Which parameters decay, and at which learning rate: by name, so that partitioned parameters are grouped alike.

Source: microsoft/Swin-Transformer optimizer.py. Fine-tuning there exempts `logit_scale` and `cpb_mlp`. In SimMIM
pretraining its names for them carry a prefix that matches no parameter: they decay, and the published models were
trained so.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from torch import nn

NO_DECAY = {
    "bias": r"(^|\.)(\w+_)?bias$",
    "norm": r"(^|\.)norm\w*\.weight$",
    "logit_scale": r"(^|\.)logit_scale$",
    "cpb_mlp": r"(^|\.)cpb_mlp\.",
    "mask_token": r"(^|\.)mask_token$",
}
"""Parameters without weight decay: rule name -> pattern of the parameter's full name."""

OF_ATTENTION = ("logit_scale", "cpb_mlp")
"""The rules that the official SimMIM pretraining lacks."""

_BLOCK = re.compile(r"(^|\.)layers\.(\d+)\.blocks\.(\d+)\.")
_DOWNSAMPLE = re.compile(r"(^|\.)layers\.(\d+)\.downsample\.")


def layer_id(name: str, depths: Sequence[int]) -> int:
    """Depth of a parameter, counted as the official layer-wise decay does (Swin-Transformer optimizer.py).

    Patch embedding and mask token are 0, block k (over all stages) is k + 1, final norm and head are sum(depths) + 1.
    A downsample has the id of the last block of the stage it leaves (timm's names put it at the head of the next one).

    Args:
        name: parameter name with timm's layout; any prefix is allowed.
        depths: blocks per stage.

    Raises:
        ValueError: the name fits none of the rules.
    """
    if re.search(r"(^|\.)(patch_embed\.|mask_token$)", name):
        return 0
    if match := _BLOCK.search(name):
        return sum(depths[: int(match[2])]) + int(match[3]) + 1
    if match := _DOWNSAMPLE.search(name):
        return sum(depths[: int(match[2])])
    if re.search(r"(^|\.)(norm|head|decoder)\.", name):
        return sum(depths) + 1
    raise ValueError(f"parameter '{name}' has no layer id: expected patch_embed, layers.*, norm, head or decoder.")


def param_groups(
    model: nn.Module, *, weight_decay: float, depths: Sequence[int], layer_decay: float = 1.0, rules: Sequence[str]
) -> list[dict[str, Any]]:
    """Groups for AdamW: every trainable parameter in exactly one.

    Args:
        model: module whose parameter names follow timm's SwinV2 layout.
        weight_decay: decay of all parameters that no rule exempts.
        depths: blocks per stage, for the layer ids.
        layer_decay: learning-rate factor per layer below the head; 1 leaves all rates equal.
        rules: names from NO_DECAY that must apply; one that matches no parameter is an error.

    Returns:
        Dicts with `params`, `names`, `weight_decay`, `lr_scale` and `name`, ordered from the input to the head.

    Raises:
        ValueError: a rule matches nothing.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    for rule in rules:
        if not any(re.search(NO_DECAY[rule], name) for name in named):
            raise ValueError(f"the no-decay rule '{rule}' matches no parameter of {type(model).__name__}.")
    top = sum(depths) + 1
    groups: dict[tuple[int, bool], list[str]] = defaultdict(list)
    for name in named:
        depth = layer_id(name, depths) if layer_decay != 1.0 else top
        groups[depth, not any(re.search(NO_DECAY[rule], name) for rule in rules)].append(name)
    return [
        {
            "params": [named[name] for name in names],
            "names": names,
            "weight_decay": weight_decay if decays else 0.0,
            "lr_scale": layer_decay ** (top - depth),
            "name": f"layer_{depth}_{'decay' if decays else 'no_decay'}",
        }
        for (depth, decays), names in sorted(groups.items())
    ]
