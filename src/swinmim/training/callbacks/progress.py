"""One bar over the whole run with loss, images/s and ETA; sparse lines where the output is no terminal."""

import sys
import time
from contextlib import ExitStack
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


class Progress(Callback):
    """Progress over all optimizer steps of the run, with `label` before the bar."""

    def __init__(self, label: str, global_batch_size: int) -> None:
        self.label = label
        self.global_batch_size = global_batch_size
        self.bar: tqdm[Any] | None = None
        self.open = ExitStack()
        self.interval = 0.5 if sys.stderr.isatty() else 10.0
        self.shown_at = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            self.open.enter_context(logging_redirect_tqdm())  # lines of the log stand above the bar, not in it
            self.bar = tqdm(
                total=int(trainer.estimated_stepping_batches),
                initial=trainer.global_step,
                desc=self.label,
                unit="step",
                mininterval=self.interval,
                maxinterval=self.interval,
                dynamic_ncols=True,
            )
            self.open.enter_context(self.bar)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.bar is None or trainer.global_step == self.bar.n:
            return
        now, ended = time.monotonic(), trainer.global_step == self.bar.total
        if now - self.shown_at >= self.interval or ended:  # reading the loss waits for the device, so not at every step
            self.shown_at = now
            loss = trainer.callback_metrics.get("train/loss")
            rate = self.bar.format_dict["rate"]
            shown = {} if loss is None else {"loss": f"{float(loss):.4f}"}
            if rate:
                shown["img/s"] = f"{rate * self.global_batch_size:.0f}"
            self.bar.set_postfix(shown, refresh=False)
        self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.open.close()
        self.bar = None

    on_exception = on_train_end
