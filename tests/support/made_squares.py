"""Bright squares on dark ground, of many sizes: as pairs of image and mask, and as a COCO set with outlines."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from made_boxes import write_json
from numpy.typing import NDArray
from PIL import Image

SIDE = 18
COUNTS = {"train": 24, "val": 7}


def _squares(count: int, rng: np.random.Generator) -> Iterator[tuple[NDArray[np.uint8], int, int]]:
    """Images (H, W, 3), and the left and upper edge of the square in each."""
    for _ in range(count):
        height, width = rng.integers(30, 70, 2)
        top, left = rng.integers(0, 12, 2)
        image = rng.integers(0, 90, (height, width, 3))
        image[top : top + SIDE, left : left + SIDE] += 150
        yield image.astype(np.uint8), int(left), int(top)


def make_pairs(root: Path) -> Path:
    """ROOT/{train,val}/{images,masks}; the upper row of each mask has no class."""
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        for folder in ("images", "masks"):
            (root / part / folder).mkdir(parents=True)
        for number, (image, left, top) in enumerate(_squares(count, rng)):
            mask = np.zeros(image.shape[:2], np.uint8)
            mask[top : top + SIDE, left : left + SIDE] = 1
            mask[0] = 255
            Image.fromarray(image).save(root / part / "images" / f"{number}.png")
            Image.fromarray(mask).save(root / part / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("ground\nsquare\n")
    return root


def make_coco(root: Path) -> Path:
    """ROOT/{train,val} with a COCO file beside each; every third image shows nothing."""
    rng = np.random.default_rng(0)
    for part, count in COUNTS.items():
        (root / part).mkdir(parents=True)
        images, rows = [], []
        for number, (image, left, top) in enumerate(_squares(count, rng)):
            name, (height, width) = f"{number}.png", image.shape[:2]
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            if number % 3 == 2:
                image = rng.integers(0, 90, image.shape, np.uint8)
            else:
                right, bottom = left + SIDE, top + SIDE
                outline = [[left, top, right, top, right, bottom, left, bottom]]
                row = {"id": number, "image_id": number, "category_id": 1, "iscrowd": 0, "area": SIDE**2}
                rows.append(row | {"bbox": [left, top, SIDE, SIDE], "segmentation": outline})
            Image.fromarray(image).save(root / part / name)
        categories = [{"id": 1, "name": "square"}]
        write_json(root / f"{part}.json", {"images": images, "annotations": rows, "categories": categories})
    return root
