"""Labels as people write them, made into classes and numbers: one rule for lists, tars and datasets."""

import re
from collections.abc import Sequence

from swinmim.errors import DataError

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
    if all(_NUMBER.fullmatch(text) for text in known):
        bound = len(names) if names else 10 * len(texts) + 1001
        number = {text: _whole(text, bound, where, bool(names)) for text in known}
        classes = tuple(names) or tuple(str(n) for n in range(max(number.values()) + 1))
    else:
        classes = tuple(sorted(known))
        number = {name: n for n, name in enumerate(classes)}
    return classes, [-1 if text is None else number[text] for text in texts]


def _whole(text: str, bound: int, where: str, named: bool) -> int:
    digits = text.partition(".")[0].lstrip("0") or "0"
    if digits.startswith("-") or len(digits) > _DIGITS or int(digits) >= bound:
        fix = f"it knows {bound} class names" if named else "give names or renumber"
        raise DataError(f"Labels must count from 0, {where} has {text[:40]}: {fix}.")
    return int(digits)
