"""What a run says of torch.compile."""

from types import SimpleNamespace

import pytest
import torch

from swinmim.models.compiled import Compiled
from swinmim.training.callbacks.compilation import Compilation


def double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor * 2


@pytest.mark.parametrize("is_global_zero", [True, False])
@pytest.mark.usefixtures("fresh_compiler")
def test_one_line_at_the_start_and_a_warning_where_it_compiles_again(caplog, is_global_zero):
    trainer = SimpleNamespace(global_step=1, is_global_zero=is_global_zero)
    callback, compiled = Compilation(), Compiled(double, backend="eager")
    callback.on_train_start(trainer, None)
    with caplog.at_level("INFO"):
        for step, rows in enumerate((2, 2, 3), start=1):
            compiled(rows, torch.ones(rows))
            trainer.global_step = step
            callback.on_train_batch_end(trainer, None)
    callback.on_train_end(trainer, None)
    callback.on_exception(trainer, None, KeyboardInterrupt())
    if not is_global_zero:
        assert caplog.records == []
        return
    first, again = (record.getMessage() for record in caplog.records)
    assert first.startswith("compile: 1 graphs in ")
    assert again.startswith("compile: 1 more graphs in ")
    assert again.endswith("at step 3. Batches of new shapes cost this time each.")
    assert caplog.records[1].levelname == "WARNING"
