"""The stock DataLoader around datasets of ready batches. Around `BatchDataset` with two promises: a worker that dies
names the samples it was reading, and too many damaged images end the run on all ranks at the same batch.
"""

import errno
import signal
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from data.loading.batch import Batch
from data.loading.damage import IndexedDamage
from data.loading.dataset import BatchDataset
from data.loading.ready import ReadyLoader, without_stack
from data.loading.sampler import EvalSampler, TrainSampler
from swinmim import private
from swinmim.errors import DataError, limit_of


def _as_it_is(batch: Any) -> Any:
    return batch


class BatchLoader(ReadyLoader):
    """Batches of a `BatchDataset`, read from the first `next` on, not from `iter`.

    Lightning calls `iter` on the first epoch before it says which epoch that is.

    Args:
        dataset, sampler: what to read, and in which order.
        num_workers, fork_safe: see `ReadyLoader`.
        max_bad_fraction: share of an epoch's images, over all ranks, that may be damaged; a few always may.
    """

    def __init__(
        self,
        dataset: BatchDataset,
        sampler: TrainSampler | EvalSampler,
        num_workers: int,
        max_bad_fraction: float,
        fork_safe: bool = True,
    ) -> None:
        dataset.watch(num_workers)
        super().__init__(
            dataset,
            num_workers,
            fork_safe,
            batch_sampler=sampler,
            collate_fn=_as_it_is,
            prefetch_factor=4 if num_workers else None,
        )
        self.max_bad_fraction = max_bad_fraction
        self._batches, self._order = dataset, sampler

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        damage = IndexedDamage(self._batches.shards.path, len(self._batches), self.max_bad_fraction)
        to_come = self._order.to_come
        try:
            batches = super().__iter__()  # from the second epoch on it waits for the workers
        except RuntimeError as error:
            raise self._name(error) from error
        if self.num_workers:
            # torch would raise a worker's death in the middle of whatever the main thread does, also an optimizer step;
            # without its watch the next missing batch tells, within seconds, and here. That needs timeout=0: with a
            # timeout torch looks after the workers only when it is over.
            private.forget_workers(self)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                break
            except DataError as error:
                raise without_stack(error) from error
            except (RuntimeError, EOFError, ConnectionError) as error:  # the latter when its pipe closes first
                try:
                    named = self._name(error)
                except RuntimeError:
                    # torch's signal handler, with its own notice of the death, before it was told to forget
                    named = self._name(error)
                raise named from error
            damage.add_batch(batch)
            to_come -= 1
            if not to_come:
                damage.agree()  # not after the last batch: Lightning does not ask for one more
            yield batch

    def _name(self, error: Exception) -> Exception:
        """What the workers were doing, when the error is that one died; or the limit that it met."""
        text = str(error)
        if told := limit_of(error):
            return DataError(told)
        signs = ("exited unexpectedly", "killed by signal")
        if isinstance(error, RuntimeError) and not any(sign in text for sign in signs):
            return error
        workers = private.loader_workers(self)
        for _ in range(3):  # torch's signal handler may raise its own notice of the death in here
            with suppress(RuntimeError):
                for worker in workers:
                    worker.join(0.2)
                private.forget_workers(self)
        dead = [n for n, worker in enumerate(workers) if worker.exitcode]
        if not dead and not isinstance(error, RuntimeError):  # all live, and cannot hand over what they have read
            return DataError(str(limit_of(OSError(errno.EMFILE, text))))
        if any(workers[n].exitcode == -signal.SIGBUS for n in dead):
            return DataError(str(limit_of(RuntimeError("Bus error"))))
        reading = self._batches.being_read(dead or range(len(workers)))
        codes = ", ".join(str(workers[n].exitcode) for n in dead) or "none"
        return DataError(
            f"A loader process died (exit codes: {codes}; -9 is mostly too little memory, -11 a fault in a decoder, -27"
            f" an image that took minutes). It was reading: {'; '.join(reading) or 'no image'}. Take that image out, or"
            f" try data.num_workers=0 to see the fault itself. ({text or type(error).__name__})"
        )
