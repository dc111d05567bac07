"""The tasks by their kind, and the union of their settings. A new task is one more name here."""

import functools
import operator
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from finetune.frozen import FrozenTask
from finetune.task import Task, TaskConfig
from finetune.tasks.classify import Classify
from finetune.tasks.detect import Detect
from finetune.tasks.knn import KNN
from finetune.tasks.multilabel import Multilabel
from finetune.tasks.probe import Probe
from finetune.tasks.regress import Regress
from finetune.tasks.segment import Segment
from finetune.tasks.video import Video

TASKS: dict[str, type[Task[Any]]] = {
    task.kind: task for task in (Classify, Detect, Multilabel, Regress, Segment, Video)
}
"""Those that train."""
FROZEN: dict[str, type[FrozenTask[Any]]] = {task.kind: task for task in (Probe, KNN)}
"""Those that measure an encoder as it is."""

if TYPE_CHECKING:
    AnyTaskConfig = TaskConfig
else:  # which of them is told by `kind`
    _union = functools.reduce(operator.or_, (task.Settings for task in (*TASKS.values(), *FROZEN.values())))
    AnyTaskConfig = Annotated[_union, Field(discriminator="kind")]
