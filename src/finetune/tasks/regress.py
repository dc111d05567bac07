"""Numbers for each image, one for each column of a list: standardised, squared or smooth absolute error, MAE and R2."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from finetune.task import Rows, Subject
from finetune.tasks.pooled import PooledConfig, PooledTask
from swinmim.config import schema
from swinmim.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor
    from torchmetrics import Metric

    from data.loading.batch import Batch

log = logging.getLogger(__name__)

_TAKEN = {"mask", "objects"}  # keys of a row that mean something else, see `finetune.task.Row`


@schema
class RegressConfig(PooledConfig):
    kind: Literal["regress"]
    loss: Literal["mse", "smooth_l1"]
    """On values standardised by the training set's mean and deviation: squared error, or smooth L1, which is linear
    from one deviation on and bears outliers."""


class Regress(PooledTask[RegressConfig]):
    """The values of an image. The head gives them standardised, (B, columns); targets are in the columns' units."""

    kind = "regress"
    Settings = RegressConfig
    monitor = ("val/loss", "min")
    needs = "value"

    def __init__(self, settings: RegressConfig, subject: Subject) -> None:
        super().__init__(settings, subject)
        columns = subject.classes
        self.mean: list[float] = subject.facts.get("mean", [0.0] * len(columns))
        deviation = subject.facts.get("std", [1.0] * len(columns))
        self.std: list[float] = [std or 1.0 for std in deviation]
        if taken := _TAKEN & set(columns):
            raise DataError(f"Predictions use the name {taken.pop()} for something else. Rename that column.")
        self.varies = [std > 0 for std in deviation]
        constant = [name for name, varies in zip(columns, self.varies, strict=True) if not varies]
        if len(constant) == len(columns):
            raise DataError(
                f"Values must differ from image to image; in the training set {_listed(constant)} never change."
                " Give a column that varies, or more images."
            )
        if constant:
            log.warning("constant in the training set, so nothing is learnt of it: %s", _listed(constant))

    @classmethod
    def survey(cls, settings: RegressConfig, targets: Iterable[NDArray[np.float32]]) -> dict[str, Any]:
        """`mean` and `std` of each column; a constant one has 0."""
        count, mean, squares = 0, np.zeros(1), np.zeros(1)
        for count, target in enumerate(targets, 1):  # Welford's way: years around 2000 keep their digits
            away = target.astype(np.float64) - mean
            mean = mean + away / count
            squares = squares + away * (target - mean)
        return {"mean": mean.tolist(), "std": np.sqrt(squares / max(count, 1)).tolist()} if count else {}

    def loss(self, output: Tensor, batch: Batch) -> Tensor:
        import torch

        with torch.autocast(output.device.type, enabled=False):
            return self._error(output.float(), self._standardised(batch))

    def _error(self, output: Tensor, target: Tensor) -> Tensor:
        import torch.nn.functional as F

        return F.mse_loss(output, target) if self.settings.loss == "mse" else F.smooth_l1_loss(output, target)

    def _standardised(self, batch: Batch) -> Tensor:
        target = cast("Tensor", batch["target"])
        return (target - target.new_tensor(self.mean)) / target.new_tensor(self.std)

    def _values(self, output: Tensor) -> Tensor:
        """In the columns' units."""
        output = output.float()
        return output * output.new_tensor(self.std) + output.new_tensor(self.mean)

    def metrics(self) -> dict[str, Metric]:
        """mae in the column's units and r2; of several columns mae_NAME and r2_NAME of each, and r2, the mean of those
        that vary in training. And the loss; over all samples alike."""
        from torchmetrics import MeanMetric

        mae, r2 = _metrics(self.subject.classes, self.varies)
        return {"mae": mae, "r2": r2, "loss": MeanMetric()}

    def update(self, metrics: Mapping[str, Any], output: Tensor, batch: Batch) -> None:
        valid = batch["valid"]
        output, target = output.float()[valid], self._standardised(batch)[valid]
        # With no rows too: all ranks must hold as many columns to add up.
        metrics["mae"].update(self._values(output), cast("Tensor", batch["target"])[valid])
        metrics["r2"].update(output, target)  # which no unit changes, and 32 bits hold better so
        if len(target):
            metrics["loss"].update(self._error(output, target), weight=len(target))

    def predict(self, output: Tensor, batch: Batch) -> Rows:
        """Each column by its name, in its units."""
        return self._rows(self._values(output))

    def truth(self, batch: Batch) -> Rows:
        return self._rows(cast("Tensor", batch["target"]))

    def _rows(self, values: Tensor) -> Rows:
        return [dict(zip(self.subject.classes, row, strict=True)) for row in values.tolist()]

    def goodness(self, output: Tensor, batch: Batch) -> Tensor:
        """Minus the mean distance over the columns, in deviations."""
        return -(output.float() - self._standardised(batch)).abs().mean(1)

    def verdict(self, values: Mapping[str, float]) -> str:
        if "val/r2" not in values:
            return ""
        if "val/mae" not in values:
            return f"validation R2 {values['val/r2']:.3f}, mean of {sum(self.varies)} columns"
        return f"validation MAE {values['val/mae']:.4g}, R2 {values['val/r2']:.3f}"

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"mean": self.mean, "std": self.std}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _metrics(columns: Sequence[str], varies: Sequence[bool]) -> tuple[Metric, Metric]:
    import torch
    from torchmetrics import MeanAbsoluteError, R2Score

    def named(key: str, values: Tensor) -> dict[str, Tensor]:
        if len(columns) == 1:
            return {key: values.reshape(())}
        return {f"{key}_{name}": value for name, value in zip(columns, values, strict=True)}

    class EachError(MeanAbsoluteError):
        def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
            return named("mae", super().compute().reshape(-1))

    class EachR2(R2Score):
        """Not a number over fewer than two images; 0 for a column that is constant in them."""

        def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
            many = self.total >= 2
            values = super().compute() if many else self.residual.new_full((len(columns),), float("nan"))
            return named("r2", values) | {"r2": values[torch.tensor(varies)].mean()}

    return EachError(num_outputs=len(columns)), EachR2(multioutput="raw_values")
