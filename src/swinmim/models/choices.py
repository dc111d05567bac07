"""Words that choose among ways to compute the same; apart from the code, so that settings are checked without torch."""

from typing import Literal, get_args

Attention = Literal["auto", "reference", "sdpa", "chunked"]
ATTENTIONS: tuple[str, ...] = get_args(Attention)

Recompute = Literal["none", "selective", "full"]
"""none: keep all. selective: keep what matrix products and attention return, run the rest (norms, GELU, normalising,
moving) again. full: keep the block's input alone."""
RECOMPUTES: tuple[str, ...] = get_args(Recompute)
