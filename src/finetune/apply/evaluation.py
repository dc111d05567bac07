"""How good a trained task model is: on any labelled images, at several resolutions, with the run's own code."""

import csv
import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.codecs.targets import WITHOUT_TARGET
from data.config import LabelledDataConfig
from data.loading.batch import LoaderSettings
from data.loading.dataset import still
from data.loading.module import EvalData, Part
from data.loading.views import View
from data.open import labelled_parts, open_labelled
from data.processes import default_workers
from data.shards.set import SampleSet
from finetune.apply.config import EvaluateConfig, Side
from finetune.apply.trained import Trained, open_trained, typed_settings
from finetune.drawing.answers import draw_answers
from finetune.drawing.confusion import confusion_picture
from finetune.module import Evaluator
from finetune.task import Task
from finetune.worst import Answer, write_table
from swinmim.checkpoint.encoder import EncoderOptions
from swinmim.distributed import is_main
from swinmim.errors import ConfigError, DataError
from swinmim.outside import one_line
from swinmim.tables import table
from swinmim.training.settings import DeviceConfig
from swinmim.training.trainer import build_evaluator

log = logging.getLogger(__name__)

BATCH = 64


def run(config: EvaluateConfig, output_dir: Path) -> list[dict[str, Any]]:
    """Evaluate, write `results.json`, `results.csv` and a folder for each resolution, and say it as one table.

    Returns a row for each resolution. Raises UserError: no task model, a resolution that does not fit, images that
    cannot be used, or of other classes or channels.
    """
    trained = open_trained(config.ckpt)
    settings = trained.run_settings()
    shapes = [trained.shape(**_options(settings, side)) for side in config.resolutions()]
    devices = _devices(config.trainer, settings)
    batch_size = config.batch_size or int(settings.get("batch_size", BATCH))
    trainer = build_evaluator(devices, batch_size=batch_size, output_dir=output_dir)
    part, decoding, where = _images(config, trained, settings)
    loading = LoaderSettings(
        resolution=shapes[0].resolution,
        seed=int(settings.get("seed", 0)),
        global_batch=batch_size * devices.world_size,
        batch_size=batch_size,
        num_workers=decoding["num_workers"],
        max_bad_fraction=decoding["max_bad_fraction"],
        decoder=decoding["decoder"],
        max_pixels=decoding["max_pixels"],
        targets=trained.task.needs not in WITHOUT_TARGET,
    )
    task, manifest = trained.task, trained.manifest
    rows = []
    for side, shape in zip(config.resolutions(), shapes, strict=True):
        network = trained.network(**_options(settings, side))
        module = Evaluator(network, task, manifest.mean, manifest.std, config.worst)
        resolution = shape.resolution
        view = task.views(resolution)[1]
        data = EvalData(part, view, dataclasses.replace(loading, resolution=resolution))
        trainer.validate(module, datamodule=data, verbose=False)
        rows.append(
            {
                "resolution": list(resolution),
                "windows": [list(stage.window) for stage in shape.stages],
                "images": module.seen,
                "damaged": module.skipped,
                **module.values,
                "images_per_s": round(module.seen / module.seconds, 1),
            }
        )
        if trainer.is_global_zero:
            folder = output_dir / _by(resolution)
            folder.mkdir(parents=True, exist_ok=True)
            _write_details(module.details, task.subject.classes, folder)
            _write_worst(module.worst.answers, task, part.shards, view, loading, folder)
    if trainer.is_global_zero:
        (output_dir / "results.json").write_text(json.dumps({"images": where, "rows": rows}, indent=1) + "\n")
        write_rows(rows, output_dir / "results.csv")
        log.info("%s\n%s\ndetails in %s", f"evaluated on {where}", _told(rows), output_dir)
    return rows


def _options(settings: Mapping[str, Any], side: Side | None) -> EncoderOptions:
    """As the run computed, for the same numbers; its window belongs to its own resolution."""
    options: EncoderOptions = {"resolution": side}
    for name in ("attention", "chunk"):
        if name in settings:
            options[name] = settings[name]
    return options


def _devices(devices: DeviceConfig, settings: Mapping[str, Any]) -> DeviceConfig:
    trainer = settings.get("trainer")
    if devices.precision != "auto" or not isinstance(trainer, Mapping):
        return devices
    return dataclasses.replace(devices, precision=trainer.get("precision", "auto"))


def _images(config: EvaluateConfig, trained: Trained, settings: Mapping[str, Any]) -> tuple[Part, dict[str, Any], str]:
    """What is evaluated on, how it is decoded, and what it is called."""
    task, channels, data = trained.task, trained.manifest.in_chans, config.data
    names = ("num_workers", "max_bad_fraction", "decoder", "max_pixels")
    if data.path is None:
        own = _own_data(settings, trained)
        _, part = labelled_parts(own, seed=int(settings["seed"]), channels=channels, needs=task.needs)
        decoding = {name: getattr(own, name) for name in names}
        where = f"what the run validated on: {len(part.sorted_indices()):,} images of {own.val_path or own.path}"
        if data.num_workers is not None:
            decoding["num_workers"] = data.num_workers
    else:
        train, val = open_labelled(data.path, data, task.needs, channels, classes=task.subject.classes or None)
        part, decoding = Part(val or train), {name: getattr(data, name) for name in names}
        where = f"{len(part.shards):,} images of {data.path}{', its validation part' if val else ''}"
        if is_main() and part.shards.fingerprint == trained.manifest.data.get("fingerprint"):
            log.warning(
                "The model was trained on images of this very set. Leave data.path out to evaluate on those that its "
                "run held out."
            )
    if decoding["num_workers"] is None:
        decoding["num_workers"] = default_workers(config.trainer.devices_per_node)
    _check(part.shards, task, channels)
    return part, decoding, where


def _own_data(settings: Mapping[str, Any], trained: Trained) -> LabelledDataConfig:
    if not isinstance(settings.get("data"), Mapping) or "seed" not in settings:
        raise ConfigError(
            f"data.path: the run that made {trained.stored.place} is not there any more to say what it validated on. "
            "Add data.path=LABELLED."
        )
    return typed_settings(LabelledDataConfig, settings["data"], "The run's own settings of its data")


def _check(shards: SampleSet, task: Task[Any], channels: int) -> None:
    if shards.channels != channels:
        raise ConfigError(f"{shards.path} has {shards.channels} channels and the model takes {channels}.")
    if shards.classes != task.subject.classes:
        raise DataError(
            f"The model knows the classes {_some(task.subject.classes)}; {shards.path} has {_some(shards.classes)}. "
            "Evaluate it on images of its own classes, in their order; python -m finetune.predict takes any images."
        )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(one_line(name) for name in names[:8]) or "none"
    return f"{shown}, ... ({len(names)} in all)" if len(names) > 8 else shown


def _by(resolution: tuple[int, int]) -> str:
    height, width = resolution
    return str(height) if height == width else f"{height}x{width}"


def _told(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table: metrics as finetune prints them."""
    shown = []
    for row in rows:
        cells = {
            "resolution": "x".join(map(str, row["resolution"])),
            "windows": " ".join("x".join(map(str, window)) for window in row["windows"]),
            "images": f"{row['images']:,}",
            **({"damaged": str(row["damaged"])} if any(one["damaged"] for one in rows) else {}),
            **{name: f"{value:.4f}" for name, value in row.items() if isinstance(value, float)},
        }
        cells["images_per_s"] = f"{row['images_per_s']:.1f}"
        shown.append(cells)
    return table([list(shown[0]), *(list(cells.values()) for cells in shown)])


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A CSV of rows with the same keys; lists are joined by blanks."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:
            writer.writerow({n: _joined(value) if isinstance(value, list) else value for n, value in row.items()})


def _joined(values: list[Any]) -> str:
    return " ".join("x".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)


def _write_details(details: Mapping[str, Any], classes: Sequence[str], folder: Path) -> None:
    """per_class.csv, confusion.csv (a row for each true class) and confusion.png, as far as the task has them."""
    if rows := details.get("per_class"):
        write_rows(rows, folder / "per_class.csv")
    if (found := details.get("confusion")) is not None:
        counts = found.cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
        named = [
            {"truth": name, **dict(zip(classes, row, strict=True))}
            for name, row in zip(classes, counts.tolist(), strict=True)
        ]
        write_rows(named, folder / "confusion.csv")
        confusion_picture(counts, classes).save(folder / "confusion.png")


def _write_worst(
    answers: Sequence[Answer], task: Task[Any], shards: SampleSet, view: View, how: LoaderSettings, folder: Path
) -> None:
    """worst.csv, and worst.png with truth and answer."""
    if not answers:
        return
    records = [shards.read(one.image) for one in answers]
    images = [still(record.data, shards, view, how) for record in records]
    write_table(folder / "worst.csv", answers, [record.name for record in records])
    truth, said = [one.truth for one in answers], [one.row for one in answers]
    draw_answers(task, images, truth, said).save(folder / "worst.png")
