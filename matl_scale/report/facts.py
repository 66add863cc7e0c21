"""What all sections of the page look at: one run's last evaluation, its course, its change, and how far chance goes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import yaml

from matl_scale.data.shards.layout import MISSING
from matl_scale.errors import InputError
from matl_scale.metrics.names import MAIN_METRIC, MAIN_METRICS
from matl_scale.runs.history import RunHistory, TaskHistory, TaskTable
from matl_scale.runs.predictions import Predictions
from matl_scale.tasks import match_names

NORMAL_95 = 1.96


@dataclass(frozen=True, kw_only=True)
class Change:
    """How balanced accuracy moved since the evaluation before the last.

    Attributes:
        since: The step of that evaluation; None if there was none.
        values: One per task, NaN where it is undefined.
        beyond_chance: Tasks that moved further than two independent test sets would differ once in twenty times.
    """

    since: int | None
    values: np.ndarray
    beyond_chance: np.ndarray


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run, read once.

    Attributes:
        run: The run.
        latest: Its last evaluation of the split.
        courses: Each main metric over time, tasks in the order of `latest`.
        predictions: What that evaluation answered; None if that was not kept.
        without: Why there are no predictions.
        half_widths: Of the 95 % interval of each task's balanced accuracy; NaN where it is not known.
        change: Since the evaluation before.
    """

    run: RunHistory
    latest: TaskTable
    courses: dict[str, TaskHistory]
    predictions: Predictions | None
    without: str
    half_widths: np.ndarray
    change: Change


def collect_facts(run: RunHistory, split: str) -> RunFacts:
    """Reads what the sections of a run need."""
    latest = run.latest(split)
    courses = {
        metric: run.over_time(split, metric).until(latest.step).of_tasks(latest.tasks) for metric in MAIN_METRICS
    }
    predictions, without = find_predictions(run, latest)
    half_widths = np.full(len(latest.tasks), np.nan)
    if predictions is not None:
        known = {task.name: i for i, task in enumerate(predictions.info.tasks)}
        for i, name in enumerate(latest.tasks):
            if name in known:
                half_widths[i] = half_width(predictions.labels[:, known[name]], predictions.predicted[:, known[name]])
    return RunFacts(
        run=run,
        latest=latest,
        courses=courses,
        predictions=predictions,
        without=without,
        half_widths=half_widths,
        change=measure_change(courses[MAIN_METRIC], half_widths),
    )


def data_path(run: RunHistory) -> str:
    """Returns where the run's shard set was; empty if the run does not say."""
    try:
        return str(run.config["data"]["path"])
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError):
        return str(run.about.get("data", {}).get("path", ""))


def select_tasks(facts: RunFacts, patterns: Sequence[str]) -> RunFacts:
    """Returns the facts of the tasks that the patterns name; of all if there are none.

    Raises:
        InputError: A pattern matches no task.
    """
    if not patterns:
        return facts
    latest, change = facts.latest, facts.change
    chosen = match_names(latest.tasks, patterns, "--tasks")
    tasks = [latest.tasks[i] for i in chosen]
    draws = None if latest.draws is None else latest.draws[chosen]
    return replace(
        facts,
        latest=replace(latest, tasks=tasks, metrics=latest.metrics.select(chosen), draws=draws),
        courses={metric: course.of_tasks(tasks) for metric, course in facts.courses.items()},
        half_widths=facts.half_widths[chosen],
        change=replace(change, values=change.values[chosen], beyond_chance=change.beyond_chance[chosen]),
    )


def find_predictions(run: RunHistory, latest: TaskTable) -> tuple[Predictions | None, str]:
    """Returns the predictions of the evaluation, or why there are none."""
    try:
        found = run.predictions(latest.split)
    except InputError as error:
        return None, str(error)
    if found.info.step != latest.step:
        return None, f"The predictions kept are of step {found.info.step:,}, not of step {latest.step:,}."
    return found, ""


def half_width(labels: np.ndarray, answers: np.ndarray) -> float:
    """Estimates how far the balanced accuracy of one task would move with other samples, 95 % of the time.

    The recalls of the classes are independent binomials; two samples are added to each class, one right and one wrong, so
    that a class without an error is not taken for certain (A. Agresti, B. Coull, The American Statistician 52, 1998).

    Args:
        labels: Class indices, −1 = no label, shape `(num_samples,)`.
        answers: Class indices, same shape.
    """
    truth, given = labels[labels != MISSING], answers[labels != MISSING]
    support = np.bincount(truth) if len(truth) else np.zeros(0)
    seen = support > 0
    if seen.sum() < 2:
        return float("nan")
    hits = np.bincount(truth[truth == given], minlength=len(support))[seen]
    recall = (hits + 1) / (support[seen] + 2)
    return float(NORMAL_95 * np.sqrt((recall * (1 - recall) / (support[seen] + 2)).sum()) / seen.sum())


def measure_change(course: TaskHistory, half_widths: np.ndarray) -> Change:
    """Compares the last evaluation with the one before."""
    if len(course.steps) < 2:
        empty = np.full(len(course.tasks), np.nan)
        return Change(since=None, values=empty, beyond_chance=np.zeros(len(empty), dtype=bool))
    values = course.values[:, -1] - course.values[:, -2]
    return Change(since=course.steps[-2], values=values, beyond_chance=np.abs(values) > np.sqrt(2) * half_widths)
