"""What the ranks agree on at the border of an optimizer step, read one step later so that the GPU never runs dry."""

import torch
import torch.distributed as dist
from torch import Tensor


class Border:
    """A few numbers per optimizer step, on their way from the device to the host.

    `read` gives what the step before `put`. Waiting for that one leaves a whole step queued on the device, and happens
    at the same step on every rank, so that what is decided from it is decided everywhere at once.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event | None] | None = None

    def put(self, values: Tensor) -> None:
        """Send off values (N,), float32."""
        if values.is_cuda:
            host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            host.copy_(values, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._pending = (host, event)
        else:
            self._pending = (values, None)

    def read(self) -> list[float] | None:
        """The values put one step before; None when there are none."""
        values = self.peek()
        self._pending = None
        return values

    def peek(self) -> list[float] | None:
        """The same, and the next `read` gives them again."""
        if self._pending is None:
            return None
        host, event = self._pending
        if event is not None:
            event.synchronize()
        values: list[float] = host.numpy().tolist()
        return values


def sum_over_ranks(values: Tensor) -> Tensor:
    """Sum in place over all processes, in the device's own queue; alone, nothing to do."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(values)
    return values
