"""Save trainer state, settings and encoder folder at fixed steps and epoch ends; keep the last ones and the best."""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from swinmim import private
from swinmim.checkpoint import io
from swinmim.checkpoint.digest import Entry, HashedFile, digest
from swinmim.errors import CheckpointError, ConfigError
from swinmim.training.callback_settings import CheckpointConfig
from swinmim.training.callbacks.averaging import Averaging
from swinmim.training.state_io import StateIO

log = logging.getLogger(__name__)

Monitor = tuple[str, Literal["min", "max"]]
"""A validation metric, and which of its values is the best."""


class Best(NamedTuple):
    """The best of all validations."""

    step: int
    score: float


class Checkpoints(Checkpoint):
    """Writes `OUTPUT/checkpoints/step_*`, the links `last` and `best` beside them, and `OUTPUT/encoder`.

    monitor: its best checkpoint is kept as well. settings: the run's whole configuration, compared on resume. A failed
    save raises CheckpointError on all ranks. The module must have `full_weights()`, `save_encoder_folder(folder,
    weights)`, `plan`, and `metrics`, the monitor's among them.
    """

    def __init__(
        self, output_dir: Path, config: CheckpointConfig, monitor: Monitor, settings: Mapping[str, Any]
    ) -> None:
        self.output_dir = output_dir
        self.root = output_dir / "checkpoints"
        self.config = config
        self.monitor, self.mode = monitor
        self.settings = settings
        self.best: Best | None = None
        self.last_saved_step = -1
        self._due = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._ending: Future[None] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {
            "best_score": self.best and self.best.score,
            "best_folder": self.best and self._folder(self.best.step).name,
            "measure": f"{self.mode} {self.monitor}",
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["measure"] == f"{self.mode} {self.monitor}" and state_dict["best_folder"] is not None:
            step = int(state_dict["best_folder"].removeprefix("step_"))
            self.best = Best(step, state_dict["best_score"])

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        logged = [f"val/{name}" for name in pl_module.metrics]  # type: ignore[union-attr]
        if self.monitor not in logged:
            raise ConfigError(
                f"the best checkpoint is the one of {self.mode}imal {self.monitor}, which this run never logs. "
                f"Name one of {', '.join(logged)}."
            )
        with _together(trainer):
            if trainer.is_global_zero:
                io.check_writable(self.root)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.last_saved_step = trainer.global_step  # the first micro-batch of a step is no step
        # a run that went back, or another run's checkpoint: its best one may be gone, or never have been here
        here = self.best is not None and self._folder(self.best.step).is_dir()
        if not trainer.strategy.broadcast(here):
            self.best = None

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        score = float(trainer.callback_metrics[self.monitor])
        sign = 1 if self.mode == "max" else -1
        if math.isfinite(score) and (self.best is None or sign * score > sign * self.best.score):
            self.best = Best(trainer.global_step, score)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        every = self.config.every_steps
        # steps inside an accumulation do not change global_step; the first of them has been saved already
        if every and trainer.global_step % every == 0 and trainer.global_step != self.last_saved_step:
            if (
                trainer.is_last_batch
            ):  # the epoch's end is near, and Lightning resumes a state from before it one step long
                self._due = True
            else:
                self.save(trainer, pl_module, wait=False)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        last = trainer.current_epoch + 1 == trainer.max_epochs or trainer.global_step == trainer.max_steps
        improved = self.best is not None and self.best.step == trainer.global_step
        due, self._due = self._due, False
        if last or improved or due or (trainer.current_epoch + 1) % self.config.every_epochs == 0:
            self.save(trainer, pl_module, wait=False)

    @classmethod
    def of(cls, trainer: L.Trainer) -> "Checkpoints":
        """The one of a trainer."""
        return next(callback for callback in trainer.checkpoint_callbacks if isinstance(callback, cls))

    def save_now(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save this step, unless it has just been saved; all ranks call it."""
        if self.last_saved_step != trainer.global_step:
            self.save(trainer, pl_module)
        else:
            self.wait(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.wait(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._ending is not None and (failure := self._ending.exception()) is not None:
            log.error("%s", failure)  # the other ranks may be elsewhere, and the exception counts

    def save(self, trainer: L.Trainer, pl_module: L.LightningModule, *, wait: bool = True) -> None:
        """Write one checkpoint; all ranks call it, rank 0 writes what is not sharded.

        wait: False returns when all bytes are with the operating system; flush, hash, marker and rename go on in a
        thread until the next save, or the end, waits for them.

        Raises CheckpointError: on all ranks, when the disk is full or refuses, for this save or the one still going on;
        the older checkpoints are as before.
        """
        folder = self._folder(trainer.global_step)
        state = io.draft_path(folder) / io.STATE
        self.wait(trainer)
        average = Averaging.of(trainer)
        weights = pl_module.full_weights() if average is None else average.weights()  # type: ignore[operator]
        with _together(trainer):
            draft = self._begin(folder, pl_module, weights) if trainer.is_global_zero else None
        with _epoch_under_way(trainer):
            trainer.save_checkpoint(state)
        shards = _seal_shards(trainer, state)
        with _together(trainer):
            if draft is not None:
                for path, entry in shards.items():
                    draft.sealed(Path(path), entry)
                plugin = trainer.strategy.checkpoint_io
                assert isinstance(plugin, StateIO)
                with io.explained(self.root, draft.path):
                    if plugin.error is not None:
                        raise plugin.error
                    for logger in trainer.loggers:  # the charts reach as far as the checkpoint
                        logger.save()
                keep_every = None
                if self.config.keep_every_epochs is not None:
                    keep_every = self.config.keep_every_epochs * int(pl_module.plan.steps_per_epoch)  # type: ignore[arg-type,union-attr]
                best = self.best and self._folder(self.best.step)
                self._ending = self._thread.submit(self._end, draft, plugin.file, best, keep_every)
        self.last_saved_step = trainer.global_step
        if wait:
            self.wait(trainer)

    def wait(self, trainer: L.Trainer) -> None:
        """Until the last checkpoint has its name; all ranks call it.

        Raises CheckpointError: on all ranks, when it could not be finished.
        """
        with _together(trainer):
            ending, self._ending = self._ending, None
            if ending is not None:
                ending.result()

    def _begin(self, folder: Path, pl_module: L.LightningModule, weights: Mapping[str, Tensor]) -> io.Draft:
        draft = io.Draft(folder)
        with io.explained(self.root, draft.path):
            (draft.path / io.CONFIG).write_text(json.dumps(self.settings, indent=1) + "\n")
            pl_module.save_encoder_folder(draft.path / "encoder", weights)  # type: ignore[operator]
        draft.seal(draft.path)
        return draft

    def _end(self, draft: io.Draft, state: HashedFile | None, best: Path | None, keep_every: int | None) -> None:
        """What needs neither the model nor the other ranks."""
        with io.explained(self.root, draft.path):
            if state is not None:
                draft.sealed(draft.path / io.STATE, state.close())
            draft.commit()
            io.point(self.root / "last", draft.folder)
            io.point(self.output_dir / "encoder", draft.folder / "encoder")
            if best is not None:
                io.point(self.root / "best", best)
            io.prune(self.root, self.config.keep_last, [best] if best else [], keep_every)

    def _folder(self, step: int) -> Path:
        return io.step_folder(self.root, step)


@contextmanager
def _together(trainer: L.Trainer) -> Iterator[None]:
    """Barrier after which rank 0's CheckpointError is raised on all ranks."""
    failure: CheckpointError | None = None
    try:
        yield
    except CheckpointError as error:
        failure = error
    message = trainer.strategy.broadcast(None if failure is None else str(failure))
    if failure is not None:
        raise failure
    if message is not None:
        raise CheckpointError(message)


@contextmanager
def _epoch_under_way(trainer: L.Trainer) -> Iterator[None]:
    """An epoch that max_steps broke off is saved as one to go on with; Lightning 2.6.6 counts it as done."""
    progress = trainer.fit_loop.epoch_progress
    epochs = (private.counters(progress), private.counters(progress, total=True))
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    broken_off = epochs[0].processed == epochs[0].started and 0 < batches < trainer.num_training_batches
    for counters in epochs:
        counters.processed -= broken_off
    try:
        yield
    finally:
        for counters in epochs:
            counters.processed += broken_off


def _seal_shards(trainer: L.Trainer, state: Path) -> dict[str, Entry]:
    """Size and hash of each file of a sharded state; every rank reads its part of them."""
    if trainer.world_size == 1 or not trainer.strategy.broadcast(state.is_dir()):
        return {}
    mine = {str(path): digest(path, flush=True) for path in io.files(state)[trainer.global_rank :: trainer.world_size]}
    parts: list[dict[str, Entry]] = [{} for _ in range(trainer.world_size)]
    torch.distributed.all_gather_object(parts, mine)
    return {path: entry for part in parts for path, entry in part.items()}
