"""The best of all validations: which it is, how it is told, and what happens where it cannot be known."""

from types import SimpleNamespace

import pytest

from swinmim.errors import ConfigError
from swinmim.training.callback_settings import CheckpointConfig
from swinmim.training.callbacks.checkpoint import Best, Checkpoints
from swinmim.training.callbacks.validations import Validations


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Validate at the end of epochs of 10 steps; what was logged last, and the lines."""

    def validate(caplog, scores, mode="max"):
        checkpoints = Checkpoints(tmp_path, CheckpointConfig(), ("val/score", mode), {})
        monkeypatch.setattr(checkpoints, "save", lambda *_, **__: None)
        logged = {}
        module = SimpleNamespace(
            plan=SimpleNamespace(steps_per_epoch=10, total_steps=10 * len(scores)), validated=-1, log=logged.__setitem__
        )
        trainer = SimpleNamespace(
            checkpoint_callbacks=[checkpoints],
            is_global_zero=True,
            callback_metrics={"train/loss": 1.0},
            max_epochs=len(scores),
            max_steps=-1,
        )
        told = Validations()
        with caplog.at_level("INFO"):
            for epoch, score in enumerate(scores, start=1):
                trainer.global_step, trainer.current_epoch = 10 * epoch, epoch - 1
                if score is not None:
                    trainer.callback_metrics["val/score"] = score
                    module.validated = trainer.global_step
                    checkpoints.on_validation_end(trainer, module)
                told.on_train_epoch_end(trainer, module)
                checkpoints.on_train_epoch_end(trainer, module)
        return checkpoints, logged, [record.getMessage() for record in caplog.records]

    return validate


def test_one_line_for_each_validation_and_the_best_beside_it(caplog, run):
    checkpoints, logged, lines = run(caplog, [0.5, 0.7, None, 0.6])
    assert lines == [
        "validation, epoch 1, step 10 of 40: val/score 0.5000 (the best val/score so far)",
        "validation, epoch 2, step 20 of 40: val/score 0.7000 (the best val/score so far)",
        "validation, epoch 4, step 40 of 40: val/score 0.6000 (best val/score 0.7000 in epoch 2)",
    ]
    assert logged == {"best/score": 0.7, "best/epoch": 2.0}
    assert checkpoints.best == Best(20, 0.7)


def test_the_smallest_can_be_the_best_and_what_is_not_finite_never_is(caplog, run):
    checkpoints, logged, lines = run(caplog, [float("nan"), 0.7, float("-inf"), 0.6, 0.6], mode="min")
    assert lines[0].endswith("val/score nan (val/score was never finite)")
    assert checkpoints.best == Best(40, 0.6)
    assert logged == {"best/score": 0.6, "best/epoch": 4.0}


def test_the_best_is_kept_in_the_state_and_only_for_the_same_measure(tmp_path, caplog, run):
    first, _, _ = run(caplog, [0.5, 0.7, 0.6])
    state = first.state_dict()
    assert state == {"best_score": 0.7, "best_folder": "step_00000020", "measure": "max val/score"}
    second, other = (
        Checkpoints(tmp_path, CheckpointConfig(), monitor, {})
        for monitor in (("val/score", "max"), ("val/loss", "min"))
    )
    for checkpoints in (second, other):
        checkpoints.load_state_dict(state)
    assert second.best == first.best
    assert other.best is None
    empty = Checkpoints(tmp_path, CheckpointConfig(), ("val/score", "max"), {})
    second.load_state_dict(empty.state_dict())
    assert empty.best is None


def test_a_monitor_that_no_validation_logs_is_an_error_at_the_start(tmp_path):
    checkpoints = Checkpoints(tmp_path, CheckpointConfig(), ("val/accuracy", "max"), {})
    module = SimpleNamespace(metrics={"top1": None, "loss": None})
    with pytest.raises(ConfigError, match=r"maximal val/accuracy, which this run never logs.*val/top1, val/loss"):
        checkpoints.on_fit_start(SimpleNamespace(), module)
