"""Where a run is in its order, and how Lightning's loops are told.

How Lightning resumes: it restores `batch_progress.current` (micro-batches done in this epoch), adds it to the number of
fetched batches, and ends the epoch when that reaches `len(loader)`. So the loader keeps its full length and, in the
first epoch after a resume, begins at the batch that is due. Written against Lightning 2.6.6.
"""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from swinmim.errors import DataError
from swinmim.private import begin_anew, counters

_WAYS = {
    "order": "finish that run with the version of this program that began it",
    "fingerprint": "point data.path at the shards of that run",
    "samples": "use the same validation split and label selection",
    "seed": "set the seed of that run",
    "global_batch": "set the global_batch_size of that run; batch_size and the number of processes may differ",
    "lanes": "set the data.lanes of that run",
    "block": "finish that run with the version of this program that began it",
    "mix": "set the data.mix of that run",
}


def require_same_order(then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """All that an order depends on must be as it was.

    Raises:
        DataError: the data, its split, seed or global batch are not those of the checkpoint.
    """
    changed = [
        f"{name}: checkpoint {then.get(name)}, now {value} ({_WAYS[name]})"
        for name, value in now.items()
        if then.get(name) != value
    ]
    if changed:
        raise DataError(
            "A resumed run must read the same samples in the same order. Changed since the checkpoint:\n  "
            + "\n  ".join(changed)
            + "\nTo train on with other data instead, start a new run from its weights (ckpt=...)."
        )


def reached(trainer: Trainer, accumulation: int) -> tuple[int, int]:
    """(epoch, global batches of it that were trained on), from the trainer's own counters."""
    epochs = counters(trainer.fit_loop.epoch_progress)
    batches = counters(trainer.fit_loop.epoch_loop.batch_progress).processed
    if batches == 0:
        return (epochs.processed, 0)
    if batches >= trainer.num_training_batches:  # between epochs too: the counter still shows the last one
        return (epochs.started, 0)
    # Not `processed`: an epoch that max_steps broke off counts as processed.
    return (epochs.started - 1, batches // accumulation)


def leave_closed_epochs(trainer: Trainer) -> None:
    """After a resume between two epochs, begin the next one; called first after the counters are restored.

    With max_steps Lightning would enter the last epoch again, and count all later ones wrongly.
    """
    epochs = counters(trainer.fit_loop.epoch_progress)
    if epochs.ready == epochs.started == epochs.processed:
        begin_anew(trainer.fit_loop)


def align_loops(trainer: Trainer, epoch: int, due: int, micro_batches: int) -> None:
    """Make the restored counters say what the sampler delivers; called before the first epoch after a resume.

    They count micro-batches of the run that wrote the checkpoint. With another number of processes a global batch
    has another number of them; those of an unfinished step, whose gradients are gone, are due again; and between
    two epochs they may still be those of the finished one, which would end the next before it starts.

    Args:
        trainer: whose loops were restored.
        epoch: that Lightning goes on with.
        due, micro_batches: the epoch to go on in, and what of it is done.
    """
    if not trainer.fit_loop.restarting:  # Lightning then starts the epoch with fresh counters
        return
    progress = trainer.fit_loop.epoch_loop.batch_progress
    current = counters(progress)
    # In a checkpoint from `on_train_batch_end` the last batch is not yet completed; Lightning adds it on restart.
    completing = current.processed - current.completed
    if epoch < due:  # all batches are done, Lightning goes back only to close the epoch
        micro_batches = int(trainer.num_training_batches)
    else:
        progress.is_last_batch = False
    current.ready = current.started = current.processed = micro_batches
    current.completed = micro_batches - completing
