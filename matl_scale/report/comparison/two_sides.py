"""The comparison of two sides, each one run or several, task by task."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from matl_scale.metrics.names import PairedMetric
from matl_scale.metrics.task_metrics import why_undefined
from matl_scale.report.comparison.alignment import AlignedRuns, Outcomes
from matl_scale.report.comparison.results import SIGNIFICANT, Comparison, Question, TaskDifference
from matl_scale.report.significance.bootstrap import bootstrap_interval
from matl_scale.report.significance.paired_counts import adjust_p, count_pairs, metric_of_runs, seed_margin
from matl_scale.report.significance.randomisation import randomisation_p
from matl_scale.tasks import Task

FEW_SAMPLES = 5


def compare_sides(aligned: AlignedRuns, side_a: Sequence[int], side_b: Sequence[int], question: Question) -> Comparison:
    """Compares two sides, each given by the indices of its runs, task by task."""
    metric, tasks = question.metric, list[TaskDifference]()
    for task in aligned.tasks:
        correct_a, correct_b = (aligned.correct(task.name, side) for side in (side_a, side_b))
        tasks.append(compare_task(task, aligned.labels(task.name), correct_a, correct_b, metric))
    runs_a, runs_b = ([aligned.outcomes[i] for i in side] for side in (side_a, side_b))
    values_a, values_b = (values_of_runs(aligned, side, metric) for side in (side_a, side_b))
    spread_a, spread_b = (values.std(axis=0, ddof=1) if len(values) > 1 else None for values in (values_a, values_b))
    margins = seed_margin(values_a, values_b).tolist()
    tasks = [
        warn_of_seeds(task, margin)
        for task, margin in zip(decide_verdicts(tasks, question.alpha), margins, strict=True)
    ]
    return Comparison(
        name_a=name_side(runs_a),
        name_b=name_side(runs_b),
        runs_a=[run.label for run in runs_a],
        runs_b=[run.label for run in runs_b],
        split=question.split,
        metric=metric,
        alpha=question.alpha,
        tasks=tasks,
        config_changes=[],
        left_out=aligned.left_out,
        min_count=question.min_count,
        spread_a=spread_a,
        spread_b=spread_b,
    )


def name_side(runs: Sequence[Outcomes]) -> str:
    return runs[0].name if len(runs) == 1 else f"{runs[0].name} and {len(runs) - 1} more"


def values_of_runs(aligned: AlignedRuns, runs: Sequence[int], metric: PairedMetric) -> np.ndarray:
    """Returns the metric of each task in each run, NaN where it is undefined, shape `(num_runs, num_tasks)`."""
    values = np.full((len(runs), len(aligned.tasks)), np.nan)
    for i, task in enumerate(aligned.tasks):
        labels = aligned.labels(task.name)
        if not why_undefined(task, np.bincount(labels, minlength=task.num_classes)):
            values[:, i] = metric_of_runs(labels, aligned.correct(task.name, runs), metric)
    return values


def warn_of_seeds(task: TaskDifference, margin: float) -> TaskDifference:
    """Warns of a difference that is real for these networks, but no larger than seeds alone may cause."""
    if task.verdict not in SIGNIFICANT or not abs(task.difference) <= margin:
        return task
    warning = f"seeds alone may do that: within ±{margin:.4f}"
    return replace(task, reason=f"{task.reason}; {warning}" if task.reason else warning)


def compare_task(
    task: Task, labels: np.ndarray, correct_a: np.ndarray, correct_b: np.ndarray, metric: PairedMetric
) -> TaskDifference:
    """Compares one task, regardless of the others; the arguments are those of `count_pairs`."""
    counts = np.bincount(labels, minlength=task.num_classes)
    reason, smallest = why_undefined(task, counts), int(counts.min())
    if reason:
        return TaskDifference(
            task=task.name, count=len(labels), smallest_class=smallest, verdict="undefined", reason=reason
        )
    pairs = count_pairs(labels, correct_a, correct_b, metric)
    low, high = bootstrap_interval(pairs.padded())
    return TaskDifference(
        task=task.name,
        count=len(labels),
        smallest_class=smallest,
        value_a=float(metric_of_runs(labels, correct_a, metric).mean()),
        value_b=float(metric_of_runs(labels, correct_b, metric).mean()),
        difference=pairs.difference,
        low=low,
        high=high,
        p=randomisation_p(pairs.padded()),
        verdict="unchanged",
        reason=warn_of_few_samples(task, counts) if metric == "balanced_accuracy" else "",
    )


def warn_of_few_samples(task: Task, class_counts: np.ndarray) -> str:
    """Returns a warning if a class has so few samples that they say little; else an empty text."""
    rarest = int(np.where(class_counts > 0, class_counts, class_counts.max()).argmin())
    count = int(class_counts[rarest])
    if count >= FEW_SAMPLES:
        return ""
    return f"class `{task.classes[rarest]}` has only {count} sample{'s' * (count > 1)}"


def decide_verdicts(tasks: Sequence[TaskDifference], alpha: float) -> list[TaskDifference]:
    """Corrects the p values for the number of tasks, and decides which differences are more than noise."""
    adjusted = adjust_p(np.array([task.p for task in tasks])).tolist()
    decided = []
    for task, p in zip(tasks, adjusted, strict=True):
        verdict = task.verdict
        if verdict != "undefined" and p <= alpha:
            verdict = "improved" if task.difference > 0 else "regressed"
        decided.append(replace(task, p_adjusted=p, verdict=verdict))
    return decided
