"""The comparison of two sides, each one run or several, task by task."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from matl_scale.metrics.names import PairedMetric
from matl_scale.metrics.undefined import why_undefined
from matl_scale.report.comparison.alignment import AlignedRuns, Outcomes
from matl_scale.report.comparison.question import Question
from matl_scale.report.comparison.results import Comparison, TaskDifference, Verdict
from matl_scale.report.significance.bootstrap import bootstrap_interval
from matl_scale.report.significance.paired_counts import adjust_p, count_pairs, metric_of_runs, seed_margin
from matl_scale.report.significance.randomisation import randomisation_p
from matl_scale.tasks import Task

FEW_SAMPLES = 5
NAN = float("nan")


def compare_sides(aligned: AlignedRuns, side_a: Sequence[int], side_b: Sequence[int], question: Question) -> Comparison:
    """Compares two sides, task by task.

    Args:
        aligned: The runs.
        side_a: The indices of the runs of A.
        side_b: The indices of the runs of B.
        question: What is compared.
    """
    metric = question.metric
    tasks = [
        compare_task(
            task,
            aligned.labels(task.name),
            aligned.correct(task.name, side_a),
            aligned.correct(task.name, side_b),
            metric,
        )
        for task in aligned.tasks
    ]
    runs_a, runs_b = ([aligned.outcomes[i] for i in side] for side in (side_a, side_b))
    values_a, values_b = (values_of_runs(aligned, side, metric) for side in (side_a, side_b))
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
        spread_a=spread_of(values_a),
        spread_b=spread_of(values_b),
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


def spread_of(values: np.ndarray) -> np.ndarray | None:
    return values.std(axis=0, ddof=1) if len(values) > 1 else None


def warn_of_seeds(task: TaskDifference, margin: float) -> TaskDifference:
    """Warns of a difference that is real for these networks, but no larger than seeds alone may cause."""
    if task.verdict not in ("improved", "regressed") or not abs(task.difference) <= margin:
        return task
    warning = f"seeds alone may do that: within ±{margin:.4f}"
    return replace(task, reason=f"{task.reason}; {warning}" if task.reason else warning)


def compare_task(
    task: Task, labels: np.ndarray, correct_a: np.ndarray, correct_b: np.ndarray, metric: PairedMetric
) -> TaskDifference:
    """Compares one task, regardless of the others.

    Args:
        task: The task.
        labels: Class indices, shape `(num_labelled,)`.
        correct_a: Which samples A predicted correctly, shape `(num_runs, num_labelled)`.
        correct_b: The same of B, which may have another number of runs.
        metric: What is compared.
    """
    counts = np.bincount(labels, minlength=task.num_classes)
    reason = why_undefined(task, counts)
    if reason:
        return TaskDifference(
            task=task.name, count=len(labels), value_a=NAN, value_b=NAN, difference=NAN, low=NAN, high=NAN, p=NAN,
            p_adjusted=NAN, verdict="undefined", reason=reason,
        )  # fmt: skip
    pairs = count_pairs(labels, correct_a, correct_b, metric)
    low, high = bootstrap_interval(pairs.padded())
    return TaskDifference(
        task=task.name,
        count=len(labels),
        value_a=float(metric_of_runs(labels, correct_a, metric).mean()),
        value_b=float(metric_of_runs(labels, correct_b, metric).mean()),
        difference=pairs.difference,
        low=low,
        high=high,
        p=randomisation_p(pairs.padded()),
        p_adjusted=NAN,
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
    return [
        replace(task, p_adjusted=p, verdict=verdict_of(task, p, alpha)) for task, p in zip(tasks, adjusted, strict=True)
    ]


def verdict_of(task: TaskDifference, p_adjusted: float, alpha: float) -> Verdict:
    if task.verdict == "undefined" or p_adjusted > alpha:
        return task.verdict
    return "improved" if task.difference > 0 else "regressed"
