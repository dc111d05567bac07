"""Labels as people write them, made into classes and numbers: one rule for lists, tars and datasets."""

import re
from collections.abc import Sequence, Set

import numpy as np

from data.codecs.targets import encode_target
from swinmim.errors import DataError
from swinmim.outside import one_line

_NUMBER = re.compile(r"-?[0-9]+(\.0*)?")  # pandas writes whole numbers as 10.0 where a column has gaps
_DIGITS = 9  # an index holds labels of 32 bits


def label_text(value: object) -> str | None:
    """One label as text; None where it is missing (null, NaN, empty).

    Raises:
        DataError: neither text nor a number.
    """
    if value is None or value != value:  # NaN
        return None
    if not isinstance(value, str | int | float):
        raise DataError(f"A label is text or a number, got {value!r}.")
    return str(value).strip() or None


def label_texts(value: object) -> list[str]:
    """All labels of an image: a list of them, or one text with "|" between; each once, in their order.

    Raises:
        DataError: as `label_text`.
    """
    values = value.split("|") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    return list(dict.fromkeys(text for text in map(label_text, values) if text is not None))


def number_labels(
    texts: Sequence[str | None], where: str, names: Sequence[str] = (), *, gaps: bool = False
) -> tuple[tuple[str, ...], list[int]]:
    """Classes, and the number of each label in them.

    Texts that are all whole numbers, however padded, count from 0; others are names, sorted.

    Args:
        texts: one of each image, as `label_text` gives it.
        where: what holds them, for errors.
        names: of the classes that numbers stand for, where they are known.
        gaps: some images may have no label, and get -1; otherwise all have one or none.

    Raises:
        DataError: labels for some images only; or numbers that are negative, or far beyond the number of images or
            the known names.
    """
    known = {text for text in texts if text is not None}
    held = len(texts) - texts.count(None)
    if known and held != len(texts) and not gaps:
        raise DataError(f"All images have a label or none; {where} has {held} for {len(texts)}. Complete or drop them.")
    if not known:
        return (), [-1] * len(texts)
    classes, number = _numbered(known, len(texts), where, names)
    return classes, [-1 if text is None else number[text] for text in texts]


def label_targets(
    texts: Sequence[Sequence[str]], where: str, names: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[str], str]:
    """As `number_labels` for any number of labels an image: the classes, the target of each image, and in words how
    many labels it has.

    Args:
        texts: of each image, as `label_texts` gives them.
        where, names: as there.

    Raises:
        DataError: no image has a label; or as there.
    """
    known = {text for image in texts for text in image}
    if not known:
        raise DataError(f"Some image has a label; {where} is empty everywhere. Fill the column, or drop it.")
    classes, number = _numbered(known, len(texts), where, names)
    numbers = [tuple(sorted({number[text] for text in image})) for image in texts]
    target = {image: _target(image, len(classes)) for image in set(numbers)}
    mean = sum(map(len, numbers)) / len(numbers)
    return classes, [target[image] for image in numbers], f"{mean:.2f} labels an image"


def _target(numbers: Sequence[int], classes: int) -> str:
    labels = np.zeros(classes, np.bool_)
    labels[list(numbers)] = True
    return encode_target("labels", labels, classes).decode()


def _numbered(known: Set[str], images: int, where: str, names: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    if all(_NUMBER.fullmatch(text) for text in known):
        bound = len(names) if names else 10 * images + 1001
        number = {text: _whole(text, bound, where, bool(names)) for text in known}
        return tuple(names) or tuple(str(n) for n in range(max(number.values()) + 1)), number
    classes = tuple(sorted(known))
    return classes, {name: n for n, name in enumerate(classes)}


def _whole(text: str, bound: int, where: str, named: bool) -> int:
    digits = text.partition(".")[0].lstrip("0") or "0"
    if digits.startswith("-") or len(digits) > _DIGITS or int(digits) >= bound:
        fix = f"it knows {bound} class names" if named else "give names or renumber"
        raise DataError(f"Labels must count from 0, {where} has {one_line(text[:40])}: {fix}.")
    return int(digits)
