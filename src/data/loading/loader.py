"""The stock DataLoader around `BatchDataset`, with two promises: a worker that dies names the samples it was reading,
and too many damaged images end the run on all ranks at the same batch.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader

from data.loading.batch import LabelledBatch
from data.loading.dataset import BatchDataset
from data.loading.sampler import EvalSampler, TrainSampler
from data.processes import heed_only_the_parent, worker_context
from swinmim.errors import DataError

_FEW_BAD = 4  # damaged images that are always tolerated per epoch and process, however small the set
_EVERY = 16  # batches between two counts over all ranks: each waits for the device


def _as_it_is(batch: Any) -> Any:
    return batch


class BatchLoader(DataLoader[LabelledBatch]):
    """A stock DataLoader of ready batches that starts to read at the first `next`, not at `iter`.

    Lightning calls `iter` on the first epoch before it says which epoch that is.

    Args:
        dataset, sampler: what to read, and in which order.
        num_workers: loader processes; 0 reads in this one.
        max_bad_fraction: share of an epoch's images, over all ranks, that may be damaged; a few always may.
        fork_safe: see `worker_context`; no set that this process has open is remote.
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
            batch_sampler=sampler,
            num_workers=num_workers,
            collate_fn=_as_it_is,
            worker_init_fn=heed_only_the_parent,
            multiprocessing_context=worker_context(num_workers, fork_safe),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            prefetch_factor=4 if num_workers else None,
        )
        self.max_bad_fraction = max_bad_fraction
        self._batches = dataset

    def __iter__(self) -> Iterator[LabelledBatch]:  # type: ignore[override]
        bad = _BadCount(self._batches, self.max_bad_fraction)
        try:
            batches = super().__iter__()  # from the second epoch on it waits for the workers
        except RuntimeError as error:
            raise self._name(error) from error
        if self.num_workers:
            # torch would raise a worker's death in the middle of whatever the main thread does, also an optimizer step;
            # without its watch the next missing batch tells, within seconds, and here. That needs timeout=0: with a
            # timeout torch looks after the workers only when it is over.
            self._forget()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                break
            except DataError as error:
                raise DataError(str(error).rpartition("DataError: ")[2]) from error  # without the worker's stack
            except (RuntimeError, EOFError, ConnectionError) as error:  # the latter when its pipe closes first
                try:
                    named = self._name(error)
                except RuntimeError:
                    # torch's signal handler, with its own notice of the death, before it was told to forget
                    named = self._name(error)
                raise named from error
            bad.add(batch)
            yield batch
        bad.agree()

    def _name(self, error: Exception) -> Exception:
        """What the workers were doing, when the error is that one died."""
        text = str(error)
        signs = ("exited unexpectedly", "killed by signal")
        if isinstance(error, RuntimeError) and not any(sign in text for sign in signs):
            return error
        workers = getattr(self._iterator, "_workers", [])
        for _ in range(3):  # torch's signal handler may raise its own notice of the death in here
            with suppress(RuntimeError):
                for worker in workers:
                    worker.join(0.2)
                self._forget()
        dead = [n for n, worker in enumerate(workers) if worker.exitcode]
        reading = self._batches.being_read(dead or range(len(workers)))
        codes = ", ".join(str(workers[n].exitcode) for n in dead) or "none"
        return DataError(
            f"A loader process died (exit codes: {codes}; -9 is mostly too little memory, -11 a fault in a decoder, -14"
            f" an image that took minutes). It was reading: {'; '.join(reading) or 'no image'}. Take that image out, or"
            f" try data.num_workers=0 to see the fault itself. ({text or type(error).__name__})"
        )

    def _forget(self) -> None:
        """Take the workers off torch's watch, whose signal handler raises anew at every further child that ends."""
        iterator: Any = self._iterator
        if getattr(iterator, "_worker_pids_set", False):
            iterator._worker_pids_set = False
            _remove_worker_pids(id(iterator))

    # Their presence tells Lightning that this loader can be resumed; the position itself is kept by the data module.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state


class _BadCount:
    """Damaged images of an epoch. With several ranks they are counted together, every few batches and at the end,

    so that all ranks stop at the same batch: one that stopped alone would leave the others waiting for it for ever.
    """

    def __init__(self, dataset: BatchDataset, fraction: float) -> None:
        self._world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        self._limit = max(_FEW_BAD * self._world, -int(-len(dataset) * fraction // 1))
        self._path, self._batches = dataset.shards.path, 0
        self._bad = self._hopeless = 0

    def add(self, batch: LabelledBatch) -> None:
        self._batches += 1
        self._bad += int(batch["substituted"].sum())
        self._hopeless += int((batch["index"] < 0).sum())
        if self._world == 1 or self._batches % _EVERY == 0:
            self.agree()

    def agree(self) -> None:
        bad, hopeless = self._bad, self._hopeless
        if self._world > 1:
            device = "cuda" if "nccl" in dist.get_backend() else "cpu"
            counts = torch.tensor([bad, hopeless], device=device)
            dist.all_reduce(counts)
            bad, hopeless = counts.tolist()
        if hopeless:
            raise DataError(
                f"Most images of {self._path} cannot be decoded: for {hopeless} of them, several substitutes in a row"
                " were damaged too. They are named in the warnings above. Write the shards again."
            )
        if bad > self._limit:
            raise DataError(
                f"At most {self._limit} images of an epoch may be damaged (max_bad_fraction), got {bad} from"
                f" {self._path}; they are named in the warnings above. Write the shards again, or raise the limit."
            )
