"""Photos with marked objects, as the formats of the world lay them out."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Drawn = Sequence[tuple[str, Sequence[float]]]
"""Class and left, top, width, height of each object."""

PHOTOS: dict[str, Drawn] = {
    "a.jpg": [("owl", (2, 3, 20, 25)), ("cat", (30, 10, 18, 24))],
    "b.jpg": [("cat", (0, 0, 50, 40))],
    "c.jpg": [],
}
SIZE = (40, 50)
"""Height and width."""


def write_photos(folder: Path, names: Sequence[str] = tuple(PHOTOS)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n, name in enumerate(names):
        pixels = np.random.default_rng(n).integers(0, 256, (*SIZE, 3), np.uint8)
        Image.fromarray(pixels).save(folder / name, quality=95)


def coco(photos: Mapping[str, Drawn] = PHOTOS, classes: Sequence[str] = ("owl", "cat"), **more: Any) -> dict[str, Any]:
    """A COCO file; ids have gaps, as COCO's own. more: joins each annotation."""
    ids = {name: 7 * n + 3 for n, name in enumerate(classes)}
    rows = [
        {"id": n, "image_id": 10 + image, "category_id": ids[name], "bbox": list(box), "iscrowd": 0, **more}
        for image, drawn in enumerate(photos.values())
        for n, (name, box) in enumerate(drawn)
    ]
    images = [{"id": 10 + n, "file_name": name, "height": SIZE[0], "width": SIZE[1]} for n, name in enumerate(photos)]
    return {"images": images, "annotations": rows, "categories": [{"id": ids[n], "name": n} for n in classes]}


def write_json(file: Path, content: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def write_voc(folder: Path, photos: Mapping[str, Drawn] = PHOTOS, size: tuple[int, int] = SIZE, more: str = "") -> None:
    """An XML for each; corners count from 1, the last one inside."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo, drawn in photos.items():
        objects = "".join(
            f"<object><name>{name}</name>{more}<bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox></object>"
            for name, (x, y, w, h) in drawn
        )
        whole = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>{objects}"
        (folder / f"{Path(photo).stem}.xml").write_text(f"<annotation>{whole}</annotation>")


def write_yolo(folder: Path, photos: Mapping[str, Drawn] = PHOTOS, classes: Sequence[str] = ("owl", "cat")) -> None:
    """A text for each photo with objects."""
    folder.mkdir(parents=True, exist_ok=True)
    for photo, drawn in photos.items():
        lines = [
            f"{classes.index(name)} {(x + w / 2) / SIZE[1]} {(y + h / 2) / SIZE[0]} {w / SIZE[1]} {h / SIZE[0]}"
            for name, (x, y, w, h) in drawn
        ]
        if lines:
            (folder / f"{Path(photo).stem}.txt").write_text("\n".join(lines) + "\n")
