"""Answers of a trained task model about images of any kind of source, as files."""

import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.codecs.decode import DecodeError
from finetune.apply.config import PredictConfig
from finetune.apply.files import Images, open_images, read
from finetune.apply.predictor import TaskPredictor
from finetune.apply.results import Beside, Detections, Table, flat, save_mask
from finetune.apply.trained import open_trained
from finetune.task import Row
from swinmim.config import config_errors
from swinmim.distributed import world_size
from swinmim.errors import ConfigError
from swinmim.outside import one_line
from swinmim.paths import shell_quoted
from swinmim.training.launch import check_visible
from swinmim.training.trainer import only_device, resolve_precision

log = logging.getLogger(__name__)

_SAID = 3  # damaged files that are named in the log; the list has all


def run(config: PredictConfig, output_dir: Path) -> None:
    """Write what the model says of each image into `output_dir`: predictions, and masks/, detections.json, overlays/
    where the task has them; damaged.csv names what could not be read.

    Raises UserError: no task model, no images, or of other channels, or not one that can be read.
    """
    check_alone("predict")
    check_visible(config.trainer.accelerator, 1)
    trained = open_trained(config.ckpt)
    with config_errors():
        trained.shape(resolution=config.resolution)
    images = open_images(
        config.data.path,
        config.data,
        channels=trained.manifest.in_chans,
        bits=trained.task.subject.bits,
        needs=trained.task.needs,
    )
    if images.source.classes or images.source.target:
        log.info(
            "The labels of %s are not read: predict answers, and python -m finetune.evaluate ckpt=%s data.path=%s "
            "compares.",
            config.data.path, shell_quoted(config.ckpt), shell_quoted(config.data.path),
        )  # fmt: skip
    model = TaskPredictor(
        trained, config.resolution, only_device(config.trainer.accelerator), resolve_precision(config.trainer)
    )
    with ExitStack() as opened:
        answers = _Answers(opened, model, images, config, output_dir)
        damaged = Damaged(opened, output_dir)
        bar = opened.enter_context(progress("predict", len(images)))
        for found in read(images, model.view, config.batch_size):
            if found.batch is not None:
                rows, sizes = model.answer(found.batch), found.batch["size"].tolist()
                for position, row, size in zip(found.positions, rows, sizes, strict=True):
                    answers.add(position, row, size)
            damaged.add(found.damaged, images)
            bar.update(len(found.positions) + len(found.damaged))
    answers.close()
    said = f"{len(images) - damaged.count:,} images: {', '.join(answers.written)} in {output_dir}"
    log.info("%s%s", said, damaged.told())


def check_alone(command: str) -> None:
    """Raises ConfigError: a launcher started several processes."""
    if world_size() > 1:
        raise ConfigError(
            f"{command} works with one process, and {world_size()} were started. Start it without the launcher; to use "
            "several GPUs, give each its own part of the images and output_dir."
        )


def progress(label: str, total: int) -> Any:
    """A bar over images; sparse where the output is no terminal."""
    interval = 0.5 if sys.stderr.isatty() else 10.0
    return tqdm(total=total, desc=label, unit="image", mininterval=interval, maxinterval=interval, dynamic_ncols=True)


class _Answers:
    """Every answer on its way to its files."""

    def __init__(
        self, opened: ExitStack, model: TaskPredictor, images: Images, config: PredictConfig, output_dir: Path
    ) -> None:
        self.model, self.images, self.config, self.output_dir = model, images, config, output_dir
        self.table = opened.enter_context(Table(output_dir, "predictions", config.table))
        self.masks, self.overlays = Beside(output_dir / "masks"), Beside(output_dir / "overlays")
        self.detections: Detections | None = None
        self.drawn: bool | None = None if config.overlays else False
        self.written = [self.table.path.name]

    def add(self, position: int, row: Row, size: list[int]) -> None:
        name = self.images.names[position]
        columns = {"path": name, **flat(row)}
        if (mask := row.get("mask")) is not None:
            place = self.masks.path(name, ".png")
            save_mask(place, mask)
            columns["mask"] = place.relative_to(self.output_dir).as_posix()
            if "masks/" not in self.written:
                names = "".join(f"{one_line(name)}\n" for name in self.model.classes)
                (self.output_dir / "classes.txt").write_text(names, encoding="utf-8")
            self._say("masks/")
        if (objects := row.get("objects")) is not None:
            self.detections = self.detections or Detections(self.output_dir, self.model.classes)
            self.detections.add(name, size, objects)
            self._say("detections.json")
        self.table.add(columns)
        if self.drawn is not False:
            self._draw(position, name, row)

    def _draw(self, position: int, name: str, row: Row) -> None:
        try:
            picture = self.model.task.draw(self.images.rgb(position), row)
        except DecodeError:  # it changed since it was read
            return
        self.drawn = picture is not None
        if picture is not None:
            picture.save(self.overlays.path(name, ".png"))
            if "overlays/" not in self.written and (legend := self.model.task.legend()) is not None:
                legend.save(self.output_dir / "legend.png")
            self._say("overlays/")

    def close(self) -> None:
        if self.detections is not None:
            self.detections.write()

    def _say(self, what: str) -> None:
        if what not in self.written:
            self.written.append(what)


class Damaged:
    """damaged.csv, made when there is something for it."""

    def __init__(self, opened: ExitStack, output_dir: Path) -> None:
        self.count, self._opened, self._folder = 0, opened, output_dir
        self._table: Table | None = None
        self._named: list[str] = []

    def add(self, found: list[tuple[int, str]], images: Images) -> None:
        for position, reason in found:
            self._table = self._table or self._opened.enter_context(Table(self._folder, "damaged", "csv"))
            name = images.names[position]
            self._table.add({"path": name, "reason": reason})
            self.count += 1
            if len(self._named) < _SAID:
                self._named.append(one_line(f"{name} ({reason})"))

    def told(self) -> str:
        """Empty where nothing was damaged."""
        if self._table is None:
            return ""
        more = f", and {self.count - _SAID} more" if self.count > _SAID else ""
        return f"; {self.count:,} could not be read: {', '.join(self._named)}{more}, listed in {self._table.path}"
