"""What training takes for the label of a sample that has none: nothing, class 0, or a soft target. Evaluation never does.

A filled label is no label: it is not counted as one in records, and nothing shows it.
"""

from collections.abc import Collection, Sequence

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError, shortened
from matl_scale.tasks import Task, values_by_pattern

SOFT = -2  # stands for a target between the classes: their frequencies in the training split
FILLS = {"ignore": MISSING, "negative": 0, "soft": SOFT}


def choose_fills(
    setting: dict[str, str] | str, tasks: Sequence[Task], balance: float, hidden: Collection[int] = ()
) -> np.ndarray:
    """Returns what fills the missing labels of each task, shape `(num_tasks,)`: `MISSING`, 0 or `SOFT`.

    Args:
        setting: `data.missing`.
        tasks: The run's tasks.
        balance: `data.balance`.
        hidden: The tasks that are not trained, whose labels stay missing.

    Raises:
        InputError: A pattern matches no task, or a way of filling does not fit its task.
    """
    chosen = values_by_pattern([task.name for task in tasks], setting, "data.missing", "ignore")
    pairs = list(zip(tasks, chosen, strict=True))
    if unfit := [task.name for task, missing in pairs if missing == "negative" and task.num_classes > 2]:
        raise InputError(
            f"`data.missing` negative is for tasks with two classes: a missing label counts as class 0. {len(unfit)} tasks have "
            f"more: {shortened(unfit)}. Name the tasks by pattern, as `data.missing: {{'*': negative, {unfit[0]}: ignore}}`."
        )
    if balance and (soft := [task.name for task, missing in pairs if missing == "soft"]):
        raise InputError(
            "`data.balance` should be 0 with `data.missing` soft: a sample with a soft target is of no class to draw. Soft are "
            f"{shortened(soft)}."
        )
    fills = np.array([FILLS[missing] for missing in chosen], dtype=np.int8)
    fills[list(hidden)] = MISSING
    return fills


def fill_missing(labels: np.ndarray, fills: np.ndarray) -> np.ndarray:
    """Returns labels, shape `(num_samples, num_tasks)`, with what fills the missing ones of each task, shape `(num_tasks,)`."""
    return np.where(labels == MISSING, fills.astype(labels.dtype), labels)
