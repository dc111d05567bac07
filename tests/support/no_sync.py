"""What makes a GPU wait, detected on any device."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

WAITING = (
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
    "aten::repeat_interleave.Tensor",
)


class NoSync(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails on reading a value, and on shapes that depend on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.name() not in WAITING, func.name()
        return func(*args, **(kwargs or {}))
