"""The stock DataLoader around a dataset whose items are ready batches."""

from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from data.loading.batch import Batch
from data.processes import heed_only_the_parent, worker_context
from swinmim.errors import DataError


class ReadyLoader(DataLoader[Batch]):
    """A stock DataLoader around a dataset of ready batches.

    Args:
        num_workers: loader processes; 0 reads in this one.
        fork_safe: see `worker_context`; no set that this process has open is remote.
        how: further arguments of the DataLoader.
    """

    def __init__(self, dataset: Dataset[Any], num_workers: int, fork_safe: bool, **how: Any) -> None:
        super().__init__(
            dataset,
            num_workers=num_workers,
            worker_init_fn=heed_only_the_parent,
            multiprocessing_context=worker_context(num_workers, fork_safe),
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            **how,
        )

    # Their presence tells Lightning that this loader can be resumed; the position itself is kept by the data module.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        del state


def without_stack(error: DataError) -> DataError:
    """What a worker raised, without its stack."""
    return DataError(str(error).rpartition("DataError: ")[2])
