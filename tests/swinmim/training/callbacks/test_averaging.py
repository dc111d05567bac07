"""The average against a running formula, what validation sees of it, and the weights after a fault."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from swinmim.training.callbacks.averaging import KEY, Averaging, judged_weights

LOADER = DataLoader(TensorDataset(torch.ones(4, 1)))


class Module(L.LightningModule):
    """One weight that goes down by 1 a step, with an integer and a boolean buffer as the encoder's tables."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.network.weight, 10.0)
        self.network.register_buffer("mask", torch.tensor([True]), persistent=False)
        self.network.register_buffer("index", torch.tensor([3]), persistent=False)
        self.validated, self.fail = [], False

    def configure_model(self):
        pass

    def training_step(self, batch, _):
        return self.network(batch[0]).mean()

    def validation_step(self, batch, _):
        self.validated.append(float(self.network.weight.detach()))
        if self.fail:
            raise RuntimeError("a fault")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(module, averaging, tmp_path, epochs=2, more=()):
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[averaging, *more], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, LOADER, LOADER)
    return trainer


def averages(steps, decay=0.75):
    found = [9.0]
    for step in range(2, steps + 1):
        found.append(decay * found[-1] + (1 - decay) * (10.0 - step))
    return found


def test_validation_sees_the_average_and_training_goes_on_without(tmp_path):
    module, averaging = Module(), Averaging(0.75)
    trainer = fit(module, averaging, tmp_path)
    assert Averaging.of(trainer) is averaging
    expected = averages(8)
    assert module.validated == pytest.approx([expected[3]] * 4 + [expected[7]] * 4)
    assert float(averaging.weights()["weight"]) == pytest.approx(expected[7])
    assert set(averaging.weights()) == {"weight"}
    assert torch.equal(module.network.mask, torch.tensor([True]))


class Pictures(L.Callback):
    """Looks at the weights after a validation, as pictures do."""

    def __init__(self):
        self.seen = []

    def on_validation_end(self, trainer, pl_module):
        with judged_weights(trainer, pl_module):
            self.seen.append(float(pl_module.network.weight.detach()))
        self.seen.append(float(pl_module.network.weight.detach()))


def test_pictures_show_the_weights_that_were_validated(tmp_path):
    pictures, expected = Pictures(), averages(8)
    fit(Module(), Averaging(0.75), tmp_path, more=[pictures])
    assert pictures.seen == pytest.approx([expected[3], 6.0, expected[7], 2.0])
    with judged_weights(SimpleNamespace(callbacks=[]), None):
        pass  # without an average nothing changes


def test_a_fault_in_validation_leaves_the_weights_in_their_places(tmp_path):
    module, averaging = Module(), Averaging(0.75)
    module.fail = True
    with pytest.raises(RuntimeError, match="a fault"):
        fit(module, averaging, tmp_path)
    assert float(module.network.weight.detach()) == pytest.approx(6.0)
    assert float(averaging.weights()["weight"]) == pytest.approx(averages(4)[3])


def test_a_checkpoint_holds_both_and_gives_the_average_back(tmp_path):
    module, averaging = Module(), Averaging(0.75)
    trainer = fit(module, averaging, tmp_path)
    checkpoint = {"state_dict": {"untouched": 1}}
    averaging.on_save_checkpoint(trainer, module, checkpoint)
    assert checkpoint["state_dict"] == {"untouched": 1}
    other = Averaging(0.75)
    other.setup(trainer, Module(), "fit")
    other.on_load_checkpoint(trainer, module, checkpoint)
    assert torch.equal(other.weights()["weight"], averaging.weights()["weight"])
    assert int(checkpoint[KEY]["n_averaged"]) == 8


def test_a_checkpoint_without_one_changes_nothing():
    other = Averaging(0.75)
    other.setup(SimpleNamespace(), Module(), "fit")
    other.on_load_checkpoint(SimpleNamespace(), None, {"state_dict": {}})
    assert float(other.weights()["weight"]) == 10.0


def test_going_back_to_a_checkpoint_without_one_begins_it_anew(tmp_path):
    module, averaging = Module(), Averaging(0.75)
    trainer = fit(module, averaging, tmp_path)
    averaging.on_load_checkpoint(trainer, module, {"state_dict": {}})
    nn.init.constant_(module.network.weight, 7.0)
    averaging._latest_update_step = 0
    averaging.on_train_batch_end(trainer, module, None, None, 0)
    assert float(averaging.weights()["weight"]) == 7.0
