"""Features of an encoder of images of any kind of source, and which images lie next to each other in them."""

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data.codecs.decode import DecodeError
from data.loading.normalise import normalise
from data.order.hashing import permutation
from finetune.apply.config import EmbedConfig
from finetune.apply.files import Images, open_images, read
from finetune.apply.prediction import Damaged, check_alone, progress
from finetune.apply.predictor import autocast, evaluation_view
from finetune.apply.results import parquet
from finetune.drawing.tiles import sheet
from swinmim.checkpoint.encoder import load_stored, open_encoder
from swinmim.config import config_errors
from swinmim.errors import ConfigError
from swinmim.models.swinv2 import SwinV2
from swinmim.outside import one_line
from swinmim.training.launch import check_visible
from swinmim.training.trainer import only_device, resolve_precision

log = logging.getLogger(__name__)

NEIGHBOURS = 7


def run(config: EmbedConfig, output_dir: Path) -> None:
    """Write a row of features for each image into `output_dir`, in the order of the listing, and neighbours.png.

    Raises UserError: no encoder, no images, or of other channels, or not one that can be read; a stage that there is
    not.
    """
    check_alone("embed")
    check_visible(config.trainer.accelerator, 1)
    if config.format == "parquet":
        parquet()
    stored = open_encoder(config.ckpt)
    manifest = stored.manifest
    if config.stage is not None and config.stage > manifest.architecture.num_stages:
        stages = manifest.architecture.num_stages
        raise ConfigError(f"The encoder has the stages 1 to {stages}, got stage={config.stage}.")
    images = open_images(config.data.path, config.data, channels=manifest.in_chans)
    device, precision = only_device(config.trainer.accelerator), resolve_precision(config.trainer)
    with config_errors():
        encoder = load_stored(stored, resolution=config.resolution).to(device).eval()
    view = evaluation_view(manifest, encoder.resolution)
    positions: list[int] = []
    parts: list[NDArray[np.float32]] = []
    with ExitStack() as opened:
        damaged = Damaged(opened, output_dir)
        bar = opened.enter_context(progress("embed", len(images)))
        for found in read(images, view, config.batch_size):
            if found.batch is not None:
                seen = found.batch["image"]
                assert isinstance(seen, Tensor)
                with torch.inference_mode(), autocast(device, precision):
                    prepared = normalise(seen.to(device), manifest.mean, manifest.std)
                    parts.append(pooled(encoder, prepared, config.stage).float().cpu().numpy())
                positions += found.positions
            damaged.add(found.damaged, images)
            bar.update(len(found.positions) + len(found.damaged))
    features = np.concatenate(parts)
    names = [images.names[position] for position in positions]
    file = _write(features, names, config.format, output_dir)
    if config.queries and len(features) > 1:
        neighbours(features, positions, images, config.queries).save(output_dir / "neighbours.png")
    log.info("%d images x %d features: %s%s", *features.shape, file, damaged.told())


def pooled(encoder: SwinV2, images_BCHW: Tensor, stage: int | None) -> Tensor:
    """(B, C): the mean over the positions of a stage's map; of the last, or None, after the final norm."""
    if stage is None or stage == encoder.architecture.num_stages:
        return encoder.pool(images_BCHW)
    return encoder.features(images_BCHW)[stage - 1].mean((2, 3))


def _write(features: NDArray[np.float32], names: list[str], kind: str, output_dir: Path) -> Path:
    path = output_dir / f"embeddings.{kind}"
    if kind == "npy":
        np.save(path, features)
        (output_dir / "paths.txt").write_text("".join(f"{one_line(name)}\n" for name in names), encoding="utf-8")
        return path
    arrow, writer = parquet()
    values: Any = arrow.FixedSizeListArray.from_arrays(features.ravel(), features.shape[1])
    writer.write_table(arrow.table({"path": names, "feature": values}), path)
    return path


def nearest(features: NDArray[np.float32], query: int, count: int) -> tuple[list[int], list[float]]:
    """The rows with the largest cosine to that of `query`, itself left out, and these cosines."""
    norms = np.linalg.norm(features, axis=1) + 1e-12
    cosine = features @ features[query] / (norms * norms[query])
    cosine[query] = -np.inf
    chosen = np.argsort(-cosine, kind="stable")[: min(count, len(features) - 1)]
    return chosen.tolist(), cosine[chosen].tolist()


def neighbours(features: NDArray[np.float32], positions: list[int], images: Images, queries: int) -> Image.Image:
    """A row for each query, chosen from all over the set: the image, then its nearest neighbours with their cosine."""
    tiles: list[tuple[list[Image.Image], list[str]]] = []
    columns = 1 + min(NEIGHBOURS, len(features) - 1)
    for query in sorted(permutation(len(features), "queries")[:queries].tolist()):
        rows, cosines = nearest(features, query, NEIGHBOURS)
        captions = ["query", *(f"{cosine:.3f}" for cosine in cosines)]
        for row, caption in zip([query, *rows], captions, strict=True):
            name = one_line(images.names[positions[row]])
            tiles.append(([_picture(images, positions[row])], [f"{caption} {name}"]))
    return sheet(tiles, columns=columns, side=128)


def _picture(images: Images, position: int) -> Image.Image:
    try:
        return Image.fromarray(images.rgb(position))
    except DecodeError:  # it changed since it was read
        return Image.new("RGB", (8, 8), "red")
