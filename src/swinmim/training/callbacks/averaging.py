"""An exponential moving average of the weights; validation and the encoder folder have it, training goes on without."""

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor, nn

from swinmim import private

KEY = "averaged_weights"
"""In a checkpoint, beside the `state_dict`, which stays that of the weights in training."""


def judged_weights(trainer: L.Trainer, pl_module: L.LightningModule) -> AbstractContextManager[None]:
    """The module has the weights that validation sees: the averaged ones where there is an average."""
    average = Averaging.of(trainer)
    return nullcontext() if average is None else average.judged(trainer, pl_module)


class Averaging(EMAWeightAveraging):
    """Lightning's, with checkpoints that everything else of this program reads as it reads others.

    decay: what an average keeps of itself at a step. It begins with the weights after the first step. Buffers are not
    averaged but those of the last step. Not for partitioned weights. Must come before the callbacks that save.
    """

    def __init__(self, decay: float) -> None:
        super().__init__(decay=decay, use_buffers=False)
        self.validating = False

    @classmethod
    def of(cls, trainer: L.Trainer) -> "Averaging | None":
        """The one of a trainer, if it has one."""
        return next((callback for callback in trainer.callbacks if isinstance(callback, cls)), None)  # type: ignore[attr-defined]

    def weights(self) -> dict[str, Tensor]:
        """The averaged network's state dict; not during a validation."""
        network: nn.Module = private.averaged(self).module.network  # type: ignore[assignment]
        return network.state_dict()

    @contextmanager
    def judged(self, trainer: L.Trainer, pl_module: L.LightningModule) -> Iterator[None]:
        """The module has the averaged weights, for who shows it beside the metrics of a validation."""
        self.on_validation_epoch_start(trainer, pl_module)
        try:
            yield
        finally:
            self.on_validation_epoch_end(trainer, pl_module)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        with warnings.catch_warnings():
            # of models that configure_model divides over ranks; ours does it under ZeRO-3 alone, which is refused
            warnings.filterwarnings("ignore", "You're using the WeightAveraging callback with a model that overrides")
            super().setup(trainer, pl_module, stage)

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        super().on_validation_epoch_start(trainer, pl_module)
        self.validating = True

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validating = False
        super().on_validation_epoch_end(trainer, pl_module)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Whoever saves on the way out finds the weights in their places."""
        if self.validating:
            self.on_validation_epoch_end(trainer, pl_module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        private.averaged(self).to(pl_module.device)  # at `setup` the module was not there yet

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = private.averaged(self).state_dict()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Of a run that had none (`allow_drift`), the average begins with the next step."""
        if KEY in checkpoint:
            private.averaged(self).load_state_dict(checkpoint[KEY])
        else:
            private.averaged(self).n_averaged.zero_()
