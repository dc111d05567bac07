"""Fetch what the order needs next while the current batches are read."""

import logging
import threading
from collections.abc import Callable, Iterable

from data.order.hashing import Ints
from swinmim.errors import DataError

log = logging.getLogger(__name__)


class Ahead:
    """A thread that prepares batches before they are read, so many at most.

    Args:
        prepare: makes the samples of a batch ready.
        coming: sample indices of each batch, as they will be needed.
        batches: how far ahead of `advance` the thread may be.
    """

    def __init__(self, prepare: Callable[[Ints], object], coming: Iterable[Ints], batches: int) -> None:
        self._slots = threading.Semaphore(batches)
        self._stopped = False
        self._thread = threading.Thread(target=self._work, args=(prepare, coming), name="fetch-ahead", daemon=True)
        self._thread.start()

    def _work(self, prepare: Callable[[Ints], object], coming: Iterable[Ints]) -> None:
        try:
            for indices in coming:
                self._slots.acquire()
                if self._stopped:
                    return
                prepare(indices)
        except DataError as error:
            log.warning("fetching ahead stopped: %s", error)  # the reader meets the same error, and raises it

    def advance(self) -> None:
        """One batch more has been asked for."""
        self._slots.release()

    def stop(self) -> None:
        """End the thread after the batch that it is preparing."""
        self._stopped = True
        self._slots.release()
