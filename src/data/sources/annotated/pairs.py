"""Images with label masks: a folder `images` beside a folder `masks`, or a list with the columns path and mask."""

import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.codecs.decode import MAX_PIXELS, DecodeError, read_header
from data.codecs.parsers import parsing
from data.codecs.png import is_png
from data.codecs.targets import IGNORED, encode_target
from data.sources.folder import read_folder
from data.sources.source import FileSource, Item, read_file
from swinmim.errors import DataError
from swinmim.outside import one_line

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
MAX_CLASSES = IGNORED
_COLOURED = re.compile(r"(.*\S)\s+(\d+)\s+(\d+)\s+(\d+)")
_NONE = -1  # in a table: no class


@dataclass(frozen=True)
class Key:
    """What the values or colours in mask files mean. Value n, or colour n, is line n of classes.txt.

    names: of the classes; a line that is ignored is none of them, and those behind it move up.
    table: int16 (256,): value or number of a colour -> class, `IGNORED`, or -1.
    colours: ascending codes of colours and the number of each; None for masks of values.
    """

    names: tuple[str, ...]
    table: NDArray[np.int16]
    colours: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None

    def digest(self) -> str:
        """Tells one key from another."""
        colours = () if self.colours is None else (part.tolist() for part in self.colours)
        text = repr((self.names, self.table.tolist(), *colours))
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def classes_of(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """uint8 (H, W) of values, or (H, W, 3) of colours -> uint8 (H, W), classes; raises DecodeError."""
        if (pixels.ndim == 3) != (self.colours is not None):
            held = "colours, and classes.txt gives none (lines: name r g b)" if pixels.ndim == 3 else "numbers"
            raise DecodeError(f"it holds {held}")
        values: NDArray[np.integer] = pixels
        if self.colours is not None:
            codes, numbers = self.colours
            coded = _codes(pixels)
            place = np.searchsorted(codes, coded).clip(max=len(codes) - 1)
            if (unknown := coded[codes[place] != coded]).size:
                code = int(unknown[0])
                raise DecodeError(
                    f"the colour {code >> 16} {code >> 8 & 255} {code & 255} in it is not in classes.txt, on"
                    f" {unknown.size:,} pixels. Add a line for it, or mend the mask"
                )
            values = numbers[place]
        classes: NDArray[np.int16] = self.table[values]
        if (classes == _NONE).any():
            wrong = values[classes == _NONE]
            raise DecodeError(
                f"the value {wrong[0]} in it is none of {len(self.names)} classes, on {wrong.size:,} pixels. Name it"
                f" in classes.txt, or leave it out with data.ignore_index={wrong[0]}"
            )
        return classes.astype(np.uint8)


def _codes(pixels_HWC: NDArray[np.integer]) -> NDArray[np.int64]:
    red, green, blue = np.moveaxis(pixels_HWC.astype(np.int64), -1, 0)
    codes: NDArray[np.int64] = red << 16 | green << 8 | blue
    return codes


@dataclass(frozen=True, kw_only=True)
class PairSource(FileSource):
    """Images and the mask file of each, "" for one without."""

    masks: Sequence[str]
    key: Key

    def load_target(self, position: int) -> bytes:
        mask, image = self.masks[position], self.items[position].name
        if not mask:
            raise OSError(f"it has no mask: a PNG named {PurePosixPath(image).stem}.png")
        try:
            pixels = self.key.classes_of(read_mask(self.root / mask, in_colours=self.key.colours is not None))
            return encode_target("mask", pixels, len(self.key.names))
        except (OSError, DecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise OSError(f"its mask {mask} cannot be used: {reason}") from error


def read_mask(path: Path, *, in_colours: bool) -> NDArray[np.uint8]:
    """A mask file: uint8 (H, W), the values of a grey PNG or the numbers of a palette; or (H, W, 3), colours.

    in_colours: what a palette holds is asked for as colours. Raises OSError, DecodeError.
    """
    data = read_file(path)
    if not is_png(data):
        raise DecodeError("a mask is a PNG, other formats change its values")
    header = read_header(data, MAX_PIXELS)
    depth, grey = data[24], data[25] == 0
    if depth > 8:
        raise DecodeError(f"a mask has 8 bits, got {depth}")
    with parsing("damaged pixels"):
        image = Image.open(io.BytesIO(data))
        if header.mode in ("L", "P", "1") and not in_colours:
            pixels: NDArray[np.uint8] = np.array(image).astype(np.uint8)
            # Pillow stretches grey values of 2 and 4 bits to the full range
            return pixels // np.uint8(255 // (2**depth - 1)) if grey and depth in (2, 4) else pixels
        return np.array(image.convert("RGB"))


def read_pairs(path: Path, classes: tuple[str, ...] | None, *, ignore_index: int = IGNORED) -> PairSource | None:
    """The images in `path/images` with the masks of the same stems in `path/masks`, where both are there.

    Classes are named in classes.txt, in `path` or above it; without, they are the numbers in the masks.

    Raises:
        DataError: no mask fits any image; classes.txt cannot be used; or its classes are not `classes`.
    """
    if not (path / IMAGES).is_dir() or not (path / MASKS).is_dir():
        return None
    images = read_folder(path / IMAGES)
    if not any((path / MASKS).iterdir()):
        raise DataError(f"A mask is a PNG with the name of its image; {path / MASKS} is empty. Put the masks there.")
    found = read_folder(path / MASKS)
    by_stem = {_stem(item.name): item.name for item in found.items if item.name.lower().endswith(".png")}
    masks = [f"{MASKS}/{name}" if (name := by_stem.get(_stem(item.name))) else "" for item in images.items]
    if not any(masks):
        raise DataError(
            f"A mask is a PNG with the name of its image; in {path} {IMAGES}/ has {one_line(images.items[0].name)} and"
            f" {MASKS}/ has {one_line(found.items[0].name)}."
            f" {'Rename the masks' if by_stem else 'Write the masks as PNGs, other formats change their values'}."
        )
    notes = []
    if lonely := by_stem.keys() - {_stem(item.name) for item in images.items}:
        notes.append(f"warning: {len(lonely):,} masks have no image, such as {MASKS}/{by_stem[min(lonely)]}")
    items = [replace(item, name=f"{IMAGES}/{item.name}", label=-1) for item in images.items]
    skipped = tuple((f"{IMAGES}/{name}", reason) for name, reason in images.skipped)
    named = next((file for file in (path / CLASSES, path.parent / CLASSES) if file.is_file()), None)
    return paired(path, items, masks, named, classes, ignore_index, skipped, notes)


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def paired(
    root: Path,
    items: Sequence[Item],
    masks: Sequence[str],
    named: Path | None,
    classes: tuple[str, ...] | None = None,
    ignore_index: int = IGNORED,
    skipped: tuple[tuple[str, str], ...] = (),
    notes: Sequence[str] = (),
) -> PairSource:
    """A source of these images and masks, paths from `root`.

    named: classes.txt, if there is one. classes: what it must say, or the numbers mean without it.
    ignore_index: value, or line of a colour, that is no class. Raises DataError as `read_pairs`.
    """
    if named is not None:
        key = read_key(named, ignore_index)
    else:
        names = classes or _numbers(root, masks, ignore_index)
        if all(name.isdecimal() for name in names):
            values = [int(name) for name in names]
        else:  # lines of training's classes.txt, of which the ignored one is no class
            values = [line for line in range(len(names) + 1) if line != ignore_index][: len(names)]
        key = Key(names, _table(values))
        key.table[ignore_index : ignore_index + 1] = IGNORED
        notes = [*notes, f"numbered, as there is no {CLASSES}"]
    if classes is not None and key.names != classes:
        raise DataError(
            f"Every split must have the same classes; {named} has {', '.join(key.names[:8])}, training"
            f" {', '.join(classes[:8])}. One {CLASSES} above both is enough."
        )
    return PairSource(
        items=[
            replace(item, target=f"{mask} {_facts(root / mask) if mask else 'none'} {key.digest()}")
            for item, mask in zip(items, masks, strict=True)
        ],
        classes=key.names,
        skipped=skipped,
        notes=tuple(notes),
        target="mask",
        root=root,
        masks=masks,
        key=key,
    )


def _facts(mask: Path) -> str:
    try:
        stat = mask.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _table(values: Iterable[int]) -> NDArray[np.int16]:
    table = np.full(IGNORED + 1, _NONE, np.int16)
    for number, value in enumerate(values):
        table[value] = number
    return table


def _numbers(root: Path, masks: Sequence[str], ignore_index: int) -> tuple[str, ...]:
    """The values up to the largest one in any mask, which takes a look at all of them; damaged ones are met again."""
    most = _NONE
    for mask in filter(None, masks):
        try:
            pixels = read_mask(root / mask, in_colours=False)
        except (OSError, DecodeError):
            continue
        if pixels.ndim == 3:
            raise DataError(
                f"What colours in masks mean is told by {CLASSES}, lines of name r g b;"
                f" {one_line(str(root / mask))} is in colours, and there is none in {root} or above it. Write one."
            )
        most = max(most, int(pixels.astype(int).max(initial=_NONE, where=pixels != ignore_index)))
    if most >= MAX_CLASSES:
        raise DataError(
            f"Masks have classes from 0 to {MAX_CLASSES - 1}; some in {root} go up to {most}. If that value means no"
            f" class, add data.ignore_index={most}."
        )
    names = tuple(str(value) for value in range(most + 1) if value != ignore_index)
    if not names:
        raise DataError(f"No mask in {root} has a class: all pixels are {ignore_index}, or damaged.")
    return names


def read_key(path: Path, ignore_index: int = IGNORED) -> Key:
    """Classes of a file with lines of `name`, or of `name r g b`; raises DataError."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeError) as error:
        raise DataError(f"{path} cannot be read ({error}).") from error
    coloured = [match for line in lines if (match := _COLOURED.fullmatch(line))]
    names = [match[1] for match in coloured] if coloured else lines
    colours = np.array([[int(part) for part in match.groups()[1:]] for match in coloured]).reshape(-1, 3)
    kept = [number for number in range(len(lines)) if number != ignore_index]
    problems = {
        "names no class": not kept,
        f"has {len(kept)} classes, and masks hold up to {MAX_CLASSES}": len(kept) > MAX_CLASSES,
        "has an empty line, and each is a class": "" in lines,
        "has colours on some lines only": len(coloured) not in (0, len(lines)),
        "names a class twice": len(set(names)) < len(names),
        "has a colour beyond 255": bool((colours > 255).any()),
        "has a colour twice": len({tuple(colour) for colour in colours.tolist()}) < len(colours),
    }
    if wrong := [text for text, holds in problems.items() if holds]:
        raise DataError(f"{path} {', '.join(wrong)}. It has a line for each class: name, or name r g b, from 0 to 255.")
    table = _table(kept)
    table[ignore_index : ignore_index + 1] = IGNORED
    codes = _codes(colours) if len(colours) else None
    order = None if codes is None else (np.sort(codes), np.argsort(codes))
    return Key(tuple(names[number] for number in kept), table, order)
