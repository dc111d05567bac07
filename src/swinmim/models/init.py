"""Initial weights of SwinV2 (microsoft/Swin-Transformer, models/swin_transformer_v2.py)."""

from __future__ import annotations

import math

import torch
from torch import nn


@torch.no_grad()
def init_weights(encoder: nn.Module) -> None:
    """Fill every parameter in place: Linear truncated normal (std 0.02), norms 1, biases 0, logit scale ln 10.

    The norms that end a residual branch start at 0, so that every block is the identity at step 0; without it the
    V2 block trains badly (microsoft/Swin-Transformer issue 183). The patch convolution keeps torch's default.
    Parameters on the meta device are left alone.
    """
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for name, parameter in encoder.named_parameters():
        parts = name.split(".")
        if "blocks" in parts and ("norm1" in parts or "norm2" in parts):
            nn.init.zeros_(parameter)
        elif parts[-1] == "logit_scale":
            nn.init.constant_(parameter, math.log(10.0))
        elif parts[-1] in ("q_bias", "v_bias"):
            nn.init.zeros_(parameter)
