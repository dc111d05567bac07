"""Which images are answered worst, and a table of them."""

import csv
import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.loading.batch import Batch
from finetune.task import Row, Task


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
    """A CSV line for each answer: image, goodness, what is true and what was said; of objects
    their number, and no masks."""
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
        if key in ("mask", "top"):
            continue
        name = kind if key in ("class", "labels") else key if kind == "prediction" else f"{kind}_{key}"
        found[name] = len(value) if key == "objects" else cell(value)
    return found


def cell(value: Any) -> Any:
    """A value of an answer in a CSV: any number of them have | between them."""
    return "|".join(map(str, value)) if isinstance(value, list | tuple) else value
