"""Images with what is true of them and what a network says, drawn where the task draws, else in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from data.codecs.bands import Pixels
from finetune.drawing.tiles import GAP, LETTER, fitted, sheet, to_rgb
from finetune.task import Row, Task

_SIDE = 256  # pixels, at most, of an image in `draw_rows`
_TITLE = 16


def in_words(row: Row) -> str:
    """An answer in a few words."""
    words: list[str] = []
    for key, value in row.items():
        match key, value:
            case (("mask" | "probabilities" | "top"), _):
                continue
            case "objects", list():
                words.append(_objects(value))
            case _, float():
                words.append(f"{value:.3g}")
            case _, list():
                words.append(" + ".join(map(str, value)) or "none")
            case _:
                words.append(str(value))
    return ", ".join(words)


def _objects(found: Sequence[Mapping[str, Any]]) -> str:
    """How many, and the surest three; what is true has the score 1."""
    if not found:
        return "no object"
    surest = sorted(found, key=lambda one: -one.get("score", 1.0))[:3]
    named = (one["class"] + (f" {one['score']:.2f}" if one.get("score", 1.0) < 1 else "") for one in surest)
    return f"{len(found)} object{'s' * (len(found) > 1)}: {', '.join(named)}{', ...' * (len(found) > 3)}"


def draw_answers(
    task: Task[Any], images: Sequence[Pixels], truth: Sequence[Row], answers: Sequence[Row], columns: int = 4
) -> Image.Image:
    """A sheet of images as they are, truth and answer under each in words, and beside it where the task draws."""
    tiles = []
    for pixels, true, said in zip(images, truth, answers, strict=True):
        image = to_rgb(pixels)
        drawn = [task.draw(image, row) for row in (true, said) if row]
        pictures = [Image.fromarray(image), *(picture for picture in drawn if picture is not None)]
        tiles.append((pictures, [f"is {in_words(true)}", f"said {in_words(said)}"]))
    return sheet(tiles, columns=columns, legend=task.legend())


def draw_rows(
    task: Task[Any], images: list[NDArray[np.uint8]], truth: list[Any], rows: list[Any], caption: str = ""
) -> Image.Image:
    """The caption over a row for each image: image, truth, prediction; below, what the colours mean."""
    tiles = []
    for image, true, row in zip(images, truth, rows, strict=True):
        drawn = [Image.fromarray(image), *(task.draw(image, said) if said else None for said in (true, row))]
        tiles.append([fitted(tile, _SIDE) if tile else None for tile in drawn])
    columns = [max([1, *(row[n].width for row in tiles if row[n])]) for n in range(3)]  # type: ignore[union-attr]
    heights = [max(tile.height for tile in row if tile) for row in tiles]
    key = task.legend()
    width = max(sum(columns) + 4 * GAP, key.width if key else 0, (LETTER + 1) * len(caption))
    top = 2 * _TITLE
    height = top + sum(heights) + GAP * len(heights) + (key.height + GAP if key else 0)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((GAP, 2), caption, fill="black")
    lefts = [GAP + sum(columns[:n]) + GAP * n for n in range(3)]
    for left, title in zip(lefts, ("image", "truth", "prediction"), strict=True):
        draw.text((left, _TITLE + 2), title, fill="black")
    for row, high in zip(tiles, heights, strict=True):
        for left, tile in zip(lefts, row, strict=True):
            if tile:
                picture.paste(tile, (left, top))
        top += high + GAP
    if key:
        picture.paste(key, (GAP, top))
    return picture
