"""What every report of one run starts from: its last evaluation, each task's history, latest change and margin of error."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError
from matl_scale.metrics.names import MAIN_METRIC, MAIN_METRICS
from matl_scale.runs.history import RunHistory, TaskHistory, TaskTable
from matl_scale.runs.predictions import Predictions
from matl_scale.tasks import match_names

NORMAL_95 = 1.96


@dataclass(frozen=True, kw_only=True)
class Change:
    """The change of the balanced accuracy since the evaluation before the last."""

    since: int | None  # the step of that evaluation; None if there was none
    values: np.ndarray  # one per task, NaN where it is undefined
    # tasks that changed by more than two independent test sets would differ once in twenty times
    beyond_chance: np.ndarray

    def largest(self, sign: int) -> np.ndarray:
        """Returns the indices of the tasks that rose (`sign` 1) or fell (−1), the largest change first."""
        moved = np.flatnonzero(np.nan_to_num(sign * self.values) > 0)
        return moved[np.argsort(-sign * self.values[moved], kind="stable")]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run, read once. All arrays and lists of tasks are in the order of `latest`."""

    run: RunHistory
    latest: TaskTable  # its last evaluation of the split
    histories: dict[str, TaskHistory]  # the history of each main metric, up to that evaluation
    predictions: Predictions | None  # the predictions of that evaluation; None if they were not stored
    no_predictions: str  # why there are no predictions; else an empty text
    # half the width of the 95 % interval of each task's balanced accuracy; NaN where it is not known
    half_widths: np.ndarray
    change: Change


def collect_facts(run: RunHistory, split: str, patterns: Sequence[str] = (), min_count: int | None = None) -> RunFacts:
    """Reads what the report of a run needs, of the tasks that match the patterns; of all if there are none.

    Summaries are over tasks with `min_count` samples of each class; None is the run's `eval.min_count`.

    Raises:
        InputError: A pattern matches no task.
    """
    latest = run.latest(split)
    if min_count is not None:
        latest = replace(latest, metrics=replace(latest.metrics, min_count=min_count))
    histories = {
        metric: run.over_time(split, metric).until(latest.step).of_tasks(latest.tasks) for metric in MAIN_METRICS
    }
    predictions, no_predictions = find_predictions(run, latest)
    widths: dict[str, float] = {}
    if predictions is not None:
        found = measure_half_widths(predictions.labels, predictions.predicted, predictions.info.num_classes)
        widths = {task.name: width for task, width in zip(predictions.info.tasks, found.tolist(), strict=True)}
    half_widths = np.array([widths.get(name, np.nan) for name in latest.tasks])
    facts = RunFacts(
        run=run,
        latest=latest,
        histories=histories,
        predictions=predictions,
        no_predictions=no_predictions,
        half_widths=half_widths,
        change=measure_change(histories[MAIN_METRIC], half_widths),
    )
    return select_tasks(facts, match_names(latest.tasks, patterns, "--tasks")) if patterns else facts


def select_tasks(facts: RunFacts, task_ids: Sequence[int]) -> RunFacts:
    """Returns the facts of some tasks, given by their indices."""
    latest, change, chosen = facts.latest, facts.change, list(task_ids)
    tasks = [latest.tasks[i] for i in chosen]
    draws, labels_seen = (None if count is None else count[chosen] for count in (latest.draws, latest.labels_seen))
    return replace(
        facts,
        latest=replace(
            latest, tasks=tasks, metrics=latest.metrics.select(chosen), draws=draws, labels_seen=labels_seen
        ),
        histories={metric: history.of_tasks(tasks) for metric, history in facts.histories.items()},
        half_widths=facts.half_widths[chosen],
        change=replace(change, values=change.values[chosen], beyond_chance=change.beyond_chance[chosen]),
    )


def find_predictions(run: RunHistory, latest: TaskTable) -> tuple[Predictions | None, str]:
    """Returns the predictions of the evaluation, or None and why there are none."""
    try:
        found = run.predictions(latest.split)
    except InputError as error:
        return None, str(error)
    if found.info.step != latest.step:
        return None, f"The stored predictions are of step {found.info.step:,}, not of step {latest.step:,}."
    return found, ""


def measure_half_widths(labels: np.ndarray, predicted: np.ndarray, num_classes: Sequence[int]) -> np.ndarray:
    """Estimates half the width of the 95 % interval of each task's balanced accuracy over other samples of the same kind.

    The recalls of the classes are independent binomials; two samples are added to each class, one right and one wrong, so
    that a class without an error does not seem certain (A. Agresti, B. Coull, The American Statistician 52, 1998).

    Args:
        labels: Class indices, −1 = no label, shape `(num_samples, num_tasks)`.
        predicted: The same of predictions.
        num_classes: Of each task.

    Returns:
        Shape `(num_tasks,)`, NaN where fewer than two classes occur.
    """
    support = count_classes(labels, num_classes)
    hits = count_classes(np.where(labels == predicted, labels, MISSING), num_classes)
    recall = (hits + 1) / (support + 2)
    variances = np.where(support > 0, recall * (1 - recall) / (support + 2), 0)
    starts: np.ndarray = np.cumsum(num_classes) - num_classes
    present = np.add.reduceat(support > 0, starts, dtype=np.int64)
    widths = NORMAL_95 * np.sqrt(np.add.reduceat(variances, starts)) / np.maximum(present, 1)
    return np.where(present > 1, widths, np.nan)


def count_classes(labels: np.ndarray, num_classes: Sequence[int]) -> np.ndarray:
    """Returns the labelled samples of each class, task by task, shape `(sum of num_classes,)`; labels are as above."""
    samples, tasks = np.nonzero(labels != MISSING)
    starts: np.ndarray = np.cumsum(num_classes) - num_classes
    return np.bincount(starts[tasks] + labels[samples, tasks], minlength=int(np.sum(num_classes)))


def measure_change(history: TaskHistory, half_widths: np.ndarray) -> Change:
    """Compares the last evaluation with the one before."""
    if len(history.steps) < 2:
        undefined = np.full(len(history.tasks), np.nan)
        return Change(since=None, values=undefined, beyond_chance=np.zeros(len(undefined), dtype=bool))
    values = history.values[:, -1] - history.values[:, -2]
    return Change(since=history.steps[-2], values=values, beyond_chance=np.abs(values) > np.sqrt(2) * half_widths)
