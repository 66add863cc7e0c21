"""Which tasks of a run lack metrics, and why."""

from dataclasses import dataclass

import numpy as np

from matl_scale.errors import InputError
from matl_scale.metrics.names import MAY_BE_UNDEFINED
from matl_scale.metrics.task_metrics import NEVER_PREDICTED, NO_LABEL, ONE_CLASS, why_undefined
from matl_scale.report.facts import RunFacts, count_classes


@dataclass(frozen=True, kw_only=True)
class UndefinedTask:
    """A task that lacks some of its metrics, and why."""

    task: str
    metrics: list[str]
    reason: str


def find_undefined(facts: RunFacts) -> list[UndefinedTask]:
    """Lists the tasks that lack a main metric, or precision."""
    reasons, values = explain_undefined(facts), facts.latest.metrics.values
    found = []
    for i, task in enumerate(facts.latest.tasks):
        missing = [name for name in MAY_BE_UNDEFINED if name in values and not np.isfinite(values[name][i])]
        if missing:
            found.append(UndefinedTask(task=task, metrics=missing, reason=reasons[i] or NEVER_PREDICTED))
    return found


def explain_undefined(facts: RunFacts) -> list[str]:
    """Returns, for each task, why its balanced accuracy is undefined; an empty text where it is defined."""
    metrics = facts.latest.metrics
    only_class = explain_from_labels(facts) if metrics.single_class.any() else {}
    reasons = [NO_LABEL if unlabelled else "" for unlabelled in metrics.unlabelled]
    for i in np.flatnonzero(metrics.single_class):
        reasons[i] = only_class.get(facts.latest.tasks[i]) or ONE_CLASS
    return reasons


def explain_from_labels(facts: RunFacts) -> dict[str, str]:
    """Returns, by task, why it is undefined on the labels of the split; empty if the run stored no predictions of any step."""
    predictions = facts.predictions
    if predictions is None:
        try:
            predictions = facts.run.predictions(facts.latest.split)
        except InputError:
            return {}
    num_classes = predictions.info.num_classes
    counts = np.split(count_classes(predictions.labels, num_classes), np.cumsum(num_classes)[:-1])
    return {task.name: why_undefined(task, own) for task, own in zip(predictions.info.tasks, counts, strict=True)}
