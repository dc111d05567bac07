"""Connects SimMIM to Lightning: batches in, loss and metrics out."""

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from data.loading.batch import Batch
from pretrain.config import PretrainConfig
from pretrain.masking import mask_grid, upsample_mask
from pretrain.prepare import Prepare, compiled_prepare_step, prepare_step
from pretrain.simmim import LOCAL_NORM_WINDOW, SimMIM
from swinmim.checkpoint.task_model import save_task_model
from swinmim.training.module import Build, Plan, Provenance, TrainingModule

BASELINES = {
    "raw": {
        "mean_baseline": "painting the mean visible colour",
        "blur_baseline": "blurring the visible pixels",
    },
    "local_norm": {
        "zero_baseline": "zero (the local mean)",
        "blur_baseline": "blurring the visible normalised pixels",
    },
}
"""Target -> validation metric of each of `SimMIM.guesses`, and what was done for it."""


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
        self.metrics = nn.ModuleDict({name: MeanMetric() for name in ("recon_loss", *BASELINES[model.target])})

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
        guesses = prediction_BCHW, *self.model.guesses(images_BCHW, mask_B1HW.squeeze(1))
        for metric, guess_BCHW in zip(self.metrics.values(), guesses, strict=True):
            error_BCHW = (target_BCHW - guess_BCHW).abs() * mask_B1HW
            loss_B = error_BCHW.mean(1).sum((1, 2)) / mask_B1HW.sum((1, 2, 3))
            metric.update(loss_B, weight=batch["valid"].float())  # type: ignore[operator]
        self.log_skipped("health/skipped_val_samples", batch["substituted"])

    def reconstruct(self, batch: Batch) -> tuple[dict[str, Tensor], str]:
        """Columns and words for `Reconstructions`. Of hidden pixels only the columns input and target know."""
        images_BCHW, mask_Bhw, target_BCHW = self.prepare(batch)
        _, prediction_BCHW = self.model(images_BCHW, mask_Bhw, target_BCHW)
        mask_B1HW = upsample_mask(mask_Bhw, self.model.mask_unit).unsqueeze(1)
        painted_BCHW = self.model.to_pixels(prediction_BCHW, images_BCHW, mask_B1HW.squeeze(1))
        mean_C11, std_C11 = self.mean[:, None, None], self.std[:, None, None]
        columns = {
            "input": images_BCHW * std_C11 + mean_C11,
            "masked": images_BCHW * ~mask_B1HW * std_C11 + mean_C11,  # zero is the mean colour
            "composite": torch.where(mask_B1HW, painted_BCHW, images_BCHW) * std_C11 + mean_C11,
        }
        match self.model.target:
            case "raw":
                space = {"prediction": painted_BCHW * std_C11 + mean_C11}
                shown = "target raw: the pixels themselves"
            case "local_norm":
                space = {"target": target_BCHW / 6 + 0.5, "prediction": prediction_BCHW / 6 + 0.5}
                shown = (
                    f"target local_norm: each pixel by its {LOCAL_NORM_WINDOW}-px window, grey is 0, range -3 to 3\n"
                    "composite: the prediction by mean and deviation of the visible pixels near it"
                )
        order = ("input", "masked", *space, "composite")
        return {title: (columns | space)[title].clamp(0, 1) for title in order}, shown

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
