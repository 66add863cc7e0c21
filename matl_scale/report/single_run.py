"""One run's last evaluation in plain values: what is bad, what moved, what is undefined and why."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from matl_scale.errors import InputError
from matl_scale.metrics.names import MAIN_METRIC, SUMMARISED_METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.metrics.undefined import NEVER_PREDICTED, NO_LABEL, ONE_CLASS, why_undefined
from matl_scale.report.facts import RunFacts
from matl_scale.tasks import match_names


@dataclass(frozen=True, kw_only=True)
class UndefinedTask:
    """A task without some of its metrics, and why."""

    task: str
    metrics: list[str]
    reason: str


def choose_tasks(facts: RunFacts, patterns: Sequence[str]) -> list[int]:
    """Returns the numbers of the tasks that the patterns name; of all if there are none."""
    names = facts.latest.tasks
    return match_names(names, patterns, "--tasks") if patterns else list(range(len(names)))


def metrics_of(facts: RunFacts, rows: Sequence[int]) -> TaskMetrics:
    """Returns the metrics of some tasks."""
    return facts.latest.metrics.select(rows)


def find_undefined(facts: RunFacts, rows: Sequence[int]) -> list[UndefinedTask]:
    """Lists the tasks that lack metrics of the summary, and precision."""
    names = (*SUMMARISED_METRICS, "precision")
    values, found = facts.latest.metrics.values, list[tuple[int, list[str]]]()
    for row in rows:
        missing = [name for name in names if name in values and not np.isfinite(values[name][row])]
        if missing:
            found.append((row, missing))
    classes = count_classes(facts) if found else {}
    return [
        UndefinedTask(task=facts.latest.tasks[row], metrics=missing, reason=explain(facts, row, classes))
        for row, missing in found
    ]


def count_classes(facts: RunFacts) -> dict[str, str]:
    """Returns, by task, why it is undefined on the labels of the split; empty if predictions, of whatever step, are not there."""
    predictions = facts.predictions
    if predictions is None:
        try:
            predictions = facts.run.predictions(facts.latest.split)
        except InputError:
            return {}  # the reason is then given without the name of the class
    labels = np.ascontiguousarray(predictions.labels.T)
    return {
        task.name: why_undefined(task, np.bincount(row[row >= 0], minlength=task.num_classes))
        for task, row in zip(predictions.info.tasks, labels, strict=True)
    }


def explain(facts: RunFacts, row: int, classes: dict[str, str]) -> str:
    if facts.latest.metrics.counts[row] == 0:
        return NO_LABEL
    reason = classes.get(facts.latest.tasks[row], "")
    if not reason and not np.isfinite(facts.latest.metrics.values[MAIN_METRIC][row]):
        return ONE_CLASS
    return reason or NEVER_PREDICTED


def moved_most(facts: RunFacts, rows: Sequence[int], limit: int, gains: bool) -> list[int]:
    """Returns the tasks whose balanced accuracy rose most since the previous evaluation, or fell most."""
    changes = facts.change.values
    moved = [row for row in rows if (changes[row] > 0 if gains else changes[row] < 0)]
    return sorted(moved, key=lambda row: -abs(changes[row]))[:limit]


def describe_run(facts: RunFacts, rows: Sequence[int]) -> dict[str, Any]:
    """Returns everything that is known of a run's tasks, for JSON."""
    latest, undefined = facts.latest, {each.task: each for each in find_undefined(facts, rows)}
    return {
        "step": latest.step,
        "previous_step": facts.change.since,
        "summary": metrics_of(facts, rows).summary(),
        "tasks": [
            {
                "task": latest.tasks[row],
                "count": latest.metrics.counts[row],
                "draws": None if latest.draws is None else latest.draws[row],
                "metrics": {name: column[row] for name, column in latest.metrics.values.items()},
                "balanced_accuracy_change": facts.change.values[row],
                "undefined": undefined.get(latest.tasks[row]),
            }
            for row in rows
        ],
    }
