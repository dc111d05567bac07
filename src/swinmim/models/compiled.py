"""torch.compile in pieces, each shape with code of its own.

torch keeps what it compiles with the code object of a function, looks it through at every call, and gives up after
eight. Blocks of one shape share a code object here, and no two shapes do. Private names of torch as of 2.15, imported
where they are used: the compiler takes a second to load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from types import FunctionType
from typing import TYPE_CHECKING, Any, cast

import torch

if TYPE_CHECKING:
    from torch._dynamo.callback import CallbackArgs


class Compiled:
    """A function that is compiled anew for each key.

    function: without graph breaks; one is an error.
    backend: of torch.compile.
    """

    def __init__(self, function: Callable[..., Any], backend: str = "inductor") -> None:
        self.function, self.backend = function, backend
        self.of: dict[Hashable, Callable[..., Any]] = {}

    def __call__(self, key: Hashable, *inputs: Any) -> Any:
        """function(*inputs), where all inputs with this key have the same shapes, dtypes and constants."""
        if key in self.of:
            return self.of[key](*inputs)
        import torch._dynamo.config as settings

        code = own_code(self.function, f"{self.function.__name__}_{len(self.of)}")
        self.of[key] = torch.compile(code, backend=self.backend, dynamic=False, fullgraph=True)
        # DDP would cut graphs at its buckets. The gradients of a block are ready in time without that.
        with settings.patch(optimize_ddp=False):
            return self.of[key](*inputs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Compiled, (self.function, self.backend)  # compiled code cannot be copied or saved


def own_code(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """The same function on a code object of its own."""
    original = cast(FunctionType, function)
    code = original.__code__.replace(co_name=name)
    copy = FunctionType(code, original.__globals__, name, original.__defaults__, original.__closure__)
    copy.__kwdefaults__ = original.__kwdefaults__
    return copy


class CompileCount:
    """Graphs that torch compiles, and seconds that it takes (their backward passes too), between `open` and `close`."""

    def __init__(self) -> None:
        self.graphs, self.seconds = 0, 0.0
        self._since = 0.0

    def open(self) -> None:
        from torch._dynamo.callback import callback_handler

        callback_handler.register_start_callback(self._start)
        callback_handler.register_end_callback(self._end)

    def close(self) -> None:
        """Closing twice is no error."""
        from torch._dynamo.callback import callback_handler

        if self._start in callback_handler.start_callbacks:
            callback_handler.remove_start_callback(self._start)
            callback_handler.remove_end_callback(self._end)

    def _start(self, args: CallbackArgs) -> None:
        self._since = time.perf_counter()

    def _end(self, args: CallbackArgs) -> None:
        self.seconds += time.perf_counter() - self._since
        self.graphs += args.callback_trigger.name == "DYNAMO"
