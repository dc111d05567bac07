"""Which images are answered worst: a table and a picture of them."""

import csv
import heapq
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data.codecs.bands import Pixels, peak
from data.loading.batch import Batch
from finetune.task import Row, Task

_SIDE, _LINE, _GAP, _LETTER = 160, 13, 6, 6


class Answer(NamedTuple):
    """What the network said of an image, and how well; sorted, the worst first."""

    goodness: float
    image: int
    """Index in its set."""
    row: Row
    truth: Row


class Worst:
    """Keeps so many of the answers, those of the least `Task.goodness`."""

    def __init__(self, task: Task[Any], count: int = 16) -> None:
        self.task, self.count = task, count
        self.answers: list[Answer] = []

    def add(self, output: Any, batch: Batch) -> None:
        """Look at a batch. What a task cannot judge is not kept."""
        goodness = self.task.goodness(output, batch)
        if goodness is None:
            return
        limit = self.answers[-1].goodness if len(self.answers) == self.count else np.inf
        values, valid = goodness.float().tolist(), batch["valid"].tolist()
        poor = [place for place, value in enumerate(values) if valid[place] and value < limit]
        if poor:  # to put into words may cost more than to judge
            rows, truth, indices = self.task.predict(output, batch), self.task.truth(batch), batch["index"].tolist()
            self.merge([Answer(values[place], indices[place], rows[place], truth[place]) for place in poor])

    def merge(self, answers: Sequence[Answer]) -> None:
        """Take in what others kept."""
        self.answers = heapq.nsmallest(self.count, [*self.answers, *answers], key=lambda one: one[:2])


def write_table(path: Path, answers: Sequence[Answer], names: Sequence[str]) -> None:
    """A CSV line for each answer: image, goodness, what is true and what was said; pictures are left out."""
    rows = [
        {"image": name, **_columns("truth", one.truth), **_columns("prediction", one.row), "goodness": one.goodness}
        for name, one in zip(names, answers, strict=True)
    ]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _columns(kind: str, row: Row) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key in ("mask", "objects", "top"):
            continue
        name = kind if key in ("class", "labels") else key if kind == "prediction" else f"{kind}_{key}"
        found[name] = "|".join(map(str, value)) if key == "labels" else _plain(value)
    return found


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def in_words(row: Row) -> str:
    """An answer in a few words."""
    words: list[str] = []
    for key, value in row.items():
        match key, value:
            case (("mask" | "probabilities" | "top"), _):
                continue
            case "objects", list():
                words.append(f"{len(value)} objects")
            case _, float():
                words.append(f"{value:.3g}")
            case _, list():
                words.append(" + ".join(map(str, value)) or "none")
            case _:
                words.append(str(value))
    return ", ".join(words)


def draw_answers(task: Task[Any], images: Sequence[Pixels], answers: Sequence[Answer], columns: int = 4) -> Image.Image:
    """A sheet of images as they are, truth and answer under each in words, and beside it where the task draws."""
    tiles = []
    for pixels, one in zip(images, answers, strict=True):
        image = to_rgb(pixels)
        drawn = [task.draw(image, row) for row in (one.truth, one.row) if row]
        tiles.append([Image.fromarray(image), *(picture for picture in drawn if picture is not None)])
    wide, high = max(map(len, tiles)) * _SIDE + _GAP, _SIDE + 2 * _LINE + _GAP
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (min(columns, len(tiles)) * wide + _GAP, rows * high + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (pictures, one) in enumerate(zip(tiles, answers, strict=True)):
        top, left = place // columns * high + _GAP, place % columns * wide + _GAP
        for number, picture in enumerate(pictures):
            factor = (_SIDE - 2) / max(picture.size)
            size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
            smooth = Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST
            sheet.paste(picture.resize(size, smooth), (left + number * _SIDE, top))
        for number, text in enumerate((f"is {in_words(one.truth)}", f"said {in_words(one.row)}")):
            letters = (wide - _GAP) // _LETTER
            shown = text if len(text) <= letters else text[: letters - 3] + "..."
            pen.text((left, top + _SIDE + number * _LINE), shown, fill="black")
    return sheet


def to_rgb(pixels_HWC: Pixels) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 (H, W, 3) of an image of 8 or 16 bits: its first three channels, or the first one as grey."""
    shown = pixels_HWC[..., :3] if pixels_HWC.shape[2] >= 3 else pixels_HWC[..., :1].repeat(3, axis=2)
    bits = 8 * shown.dtype.itemsize
    return (shown // (peak(bits) // peak(8))).astype(np.uint8)
