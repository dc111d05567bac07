"""Which samples take part: a held-out split, a few labels of each class."""

import numpy as np

from data.order.hashing import Ints, permutation
from swinmim.errors import DataError


def split(num_samples: int, held_out: int | float, seed: int) -> tuple[Ints, Ints]:
    """Hold out part of a set; the two parts are disjoint, sorted, and together everything.

    Args:
        num_samples: size of the set.
        held_out: a count (int) or a share between 0 and 1 (float, rounded to whole samples).
        seed: key of the choice.

    Returns:
        (train, held-out) sample indices, int64.

    Raises:
        DataError: nothing would be left to train on.
    """
    count = held_out if isinstance(held_out, int) else round(num_samples * held_out)
    if not 0 <= count < num_samples:
        raise DataError(f"The held-out part must leave samples to train on, got {held_out} of {num_samples} samples.")
    chosen = permutation(num_samples, "split", seed)
    return np.sort(chosen[count:]), np.sort(chosen[:count])


def few_labels(labels: Ints, per_class: int, seed: int) -> Ints:
    """Sorted indices of `per_class` samples of each class; samples with label -1 are never taken.

    Raises:
        DataError: some class has fewer samples; all such classes are listed.
    """
    chosen, short = [], []
    for label in np.unique(labels[labels >= 0]):
        members = np.flatnonzero(labels == label)
        if len(members) < per_class:
            short.append(f"{label} ({len(members)})")
        chosen.append(members[permutation(len(members), "few_labels", seed, int(label))[:per_class]])
    if short or not chosen:
        raise DataError(
            f"Every class needs {per_class} samples; too few in class: {', '.join(short) or 'none labelled'}."
        )
    return np.sort(np.concatenate(chosen))
