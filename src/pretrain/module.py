"""Connects SimMIM to Lightning: batches in, loss and metrics out."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from data.loading.batch import Batch
from pretrain.config import PretrainConfig
from pretrain.masking import blurred, mask_grid, upsample_mask, visible_mean
from pretrain.prepare import Prepare, compiled_prepare_step, prepare_step
from pretrain.simmim import SimMIM, local_statistics
from swinmim.checkpoint.task_model import save_task_model
from swinmim.training.module import Build, Plan, Provenance, TrainingModule

VAL_METRICS = ("recon_loss", "mean_baseline", "blur_baseline")


class PretrainModule(TrainingModule):
    """SimMIM pretraining.

    config says beside the optimizer's settings whether images are flipped, and the preparation of training batches is
    compiled. The others: see `TrainingModule`.
    """

    rules = ("bias", "norm", "logit_scale", "cpb_mlp", "mask_token")

    def __init__(
        self, model: SimMIM, config: PretrainConfig, plan: Plan, provenance: Provenance, build: Build | None = None
    ) -> None:
        super().__init__(model, config, plan, provenance, build)
        self.flip = config.augment.flip
        self.prepare_training: Prepare = compiled_prepare_step() if config.compile else prepare_step
        self.val_metrics = nn.ModuleDict({name: MeanMetric() for name in VAL_METRICS})

    @property
    def model(self) -> SimMIM:
        return cast(SimMIM, self.network)

    def training_loss(self, batch: Batch) -> Tensor:
        loss, _ = self.model(*self.prepare(batch, self.prepare_training, flip=self.flip))
        return loss  # type: ignore[no-any-return]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Masked L1 on fixed masks, beside two guesses that need no network."""
        images_BCHW, mask_Bhw, target_BCHW = self.prepare(batch)
        _, prediction_BCHW = self.model(images_BCHW, mask_Bhw, target_BCHW)
        mask_B1HW = upsample_mask(mask_Bhw, self.model.mask_unit).unsqueeze(1)
        mean_BCHW, blur_BCHW = self.baselines(images_BCHW, mask_B1HW.squeeze(1))
        for name, guess_BCHW in zip(VAL_METRICS, (prediction_BCHW, mean_BCHW, blur_BCHW), strict=True):
            error_BCHW = (target_BCHW - guess_BCHW).abs() * mask_B1HW
            loss_B = error_BCHW.mean(1).sum((1, 2)) / mask_B1HW.sum((1, 2, 3))
            self.val_metrics[name].update(loss_B, weight=batch["valid"].float())  # type: ignore[operator]
        self.log_skipped("health/skipped_val_samples", batch["substituted"])

    def on_validation_epoch_end(self) -> None:
        for name in VAL_METRICS:
            self.log(f"val/{name}", self.val_metrics[name].compute())  # type: ignore[operator]
            self.val_metrics[name].reset()  # type: ignore[operator]
        self.log("samples_seen", self.samples_seen)

    def baselines(self, images_BCHW: Tensor, mask_BHW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean visible colour and blurred visible pixels as predictions in the target's space.

        With local_norm the first is the local mean itself, zero, and the second borrows the true local statistics.
        """
        mean_BCHW = visible_mean(images_BCHW, mask_BHW).expand_as(images_BCHW)
        blur_BCHW = blurred(images_BCHW, mask_BHW, sigma=self.model.mask_unit / 2)
        if self.model.target == "raw":
            return mean_BCHW, blur_BCHW
        local_mean, local_std = local_statistics(images_BCHW)
        return torch.zeros_like(images_BCHW), (blur_BCHW - local_mean) / local_std

    def reconstruct(self, batch: Batch) -> dict[str, Tensor]:
        """The columns of the picture, see `Reconstructions`."""
        images_BCHW, mask_Bhw, target_BCHW = self.prepare(batch)
        _, prediction_BCHW = self.model(images_BCHW, mask_Bhw, target_BCHW)
        prediction_BCHW = self.model.to_pixels(prediction_BCHW, images_BCHW)
        mask_B1HW = upsample_mask(mask_Bhw, self.model.mask_unit).unsqueeze(1)
        columns = {
            "input": images_BCHW,
            "masked": images_BCHW * ~mask_B1HW,  # zero is the mean colour
            "prediction": prediction_BCHW,
            "composite": torch.where(mask_B1HW, prediction_BCHW, images_BCHW),
        }
        mean_C11, std_C11 = self.mean[:, None, None], self.std[:, None, None]
        return {title: (images * std_C11 + mean_C11).clamp(0, 1) for title, images in columns.items()}

    def prepare(
        self, batch: Batch, prepare: Prepare = prepare_step, *, flip: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images, mask and target of a batch, see `prepare_step`."""
        model = self.model
        return prepare(
            batch["image"],
            batch["seed"],
            self.mean,
            self.std,
            flip=flip,
            grid=mask_grid(model.encoder.resolution, model.mask_unit),
            mask_ratio=model.mask_ratio,
            target=model.target,
        )

    def save_encoder_folder(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        save_task_model(self.model.encoder, folder, weights, self.encoder_manifest())
