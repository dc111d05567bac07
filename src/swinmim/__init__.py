"""swinmim: pretrain SwinV2 on unlabelled images by masked image modelling, and take it to a task."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from swinmim.checkpoint.encoder import load_encoder as load_encoder
    from swinmim.checkpoint.encoder import save_encoder as save_encoder
    from swinmim.models.swinv2 import create_encoder as create_encoder

__version__ = "0.1.0"
__all__ = ["create_encoder", "load_encoder", "save_encoder"]


def __getattr__(name: str) -> Any:
    # At their first use: they need torch, and the processes that write shards do without.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from swinmim.checkpoint.encoder import load_encoder, save_encoder
    from swinmim.models.swinv2 import create_encoder

    found = {"create_encoder": create_encoder, "load_encoder": load_encoder, "save_encoder": save_encoder}
    globals().update(found)
    return found[name]
