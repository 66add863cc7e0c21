"""The metrics of all tasks after an evaluation, their summaries over tasks, and why one is undefined.

An undefined value is NaN, and every summary leaves it out. No torch here: reports use it too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from matl_scale.display import show_name
from matl_scale.errors import shortened
from matl_scale.metrics.baseline import beats_baseline
from matl_scale.metrics.names import (
    AVERAGED_METRICS,
    DECIDED_METRICS,
    MAIN_METRIC,
    METRICS,
    NOT_LEARNED,
    SUMMARIES,
    SUMMARISED_METRICS,
)
from matl_scale.tasks import Task

NO_LABEL = "no labelled sample"
ONE_CLASS = "only one class occurs"  # where it is not known which
NEVER_PREDICTED = "the positive class is never predicted"


@dataclass(frozen=True, kw_only=True)
class TaskMetrics:
    """Metrics of all tasks after one evaluation."""

    # by the metric's name, one value per task, NaN where it is undefined. A metric that was not measured has no entry: those
    # of decisions if none were fitted, or one that the version that evaluated did not know
    values: dict[str, np.ndarray]
    counts: np.ndarray  # labelled samples of each task
    min_count: int = 0  # summaries are over the tasks that have at least as many samples of each class

    @property
    def tested(self) -> np.ndarray:
        """Tasks, as a bool array, that can be better than the baseline: those of which two classes occur. None of them if an
        earlier version evaluated, which did not test."""
        tested: np.ndarray = ~np.isnan(self.column("baseline_p"))
        return tested

    @property
    def not_learned(self) -> np.ndarray:
        """Tasks, as a bool array, that could be better than the baseline, a constant answer, and are not beyond chance, by an
        exact test that is corrected over the tasks at hand (see `baseline`)."""
        not_learned: np.ndarray = self.tested & ~beats_baseline(self.column("baseline_p"))
        return not_learned

    @property
    def in_means(self) -> np.ndarray:
        """Tasks, as a bool array, that summaries are over: those with a labelled sample, and `min_count` of each class.

        If an earlier version evaluated, which did not count the smallest class, only a `min_count` of 0 keeps any.
        """
        enough = self.column("smallest_class") >= self.min_count if self.min_count else True
        in_means: np.ndarray = ~self.unlabelled & enough
        return in_means

    def column(self, metric: str) -> np.ndarray:
        """Returns a metric of every task; all NaN if it was not measured."""
        return self.values.get(metric, np.full(len(self.counts), np.nan))

    @property
    def unlabelled(self) -> np.ndarray:
        """Tasks, as a bool array, without a labelled sample."""
        unlabelled: np.ndarray = self.counts == 0
        return unlabelled

    @property
    def single_class(self) -> np.ndarray:
        """Tasks, as a bool array, whose labelled samples are all of one class, so that most metrics are undefined."""
        single: np.ndarray = ~self.unlabelled & ~np.isfinite(self.values[MAIN_METRIC])
        return single

    def select(self, task_ids: Sequence[int]) -> "TaskMetrics":
        """Returns the metrics of some tasks, in the order given."""
        chosen = list(task_ids)
        values = {name: column[chosen] for name, column in self.values.items()}
        return replace(self, values=values, counts=self.counts[chosen])

    def with_values(self, values: Mapping[str, np.ndarray]) -> "TaskMetrics":
        """Returns the metrics with some columns added or replaced, each of shape `(num_tasks,)`, in the order of files."""
        together = self.values | dict(values)
        assert set(together) <= set(METRICS), sorted(set(together) - set(METRICS))
        assert all(column.shape == self.counts.shape for column in values.values())
        return replace(self, values={name: together[name] for name in METRICS if name in together})

    def measured(self, metrics: Sequence[str]) -> list[str]:
        """Returns those of some metrics that tables show: all but those of decisions, if none were fitted."""
        return [name for name in metrics if name not in DECIDED_METRICS or np.isfinite(self.column(name)).any()]

    def worst(self, limit: int = 10, metric: str = MAIN_METRIC) -> list[int]:
        """Returns the tasks with the lowest values of a metric, worst first; undefined ones are left out.

        Of equal ones, as of all tasks whose rare class is never predicted, that comes first which is decided worse.
        """
        values = self.values[metric]
        order = worst_first(values, self.column("decided_balanced_accuracy"))
        return [task_id for task_id in order if np.isfinite(values[task_id])][:limit]

    def summary(self) -> dict[str, float]:
        """Returns the summaries over tasks by their keys in records, as `macro_auroc`; NaN where no task has a value. Metrics of
        decisions have none if none were fitted.

        `tasks_in_means` is the number of tasks that they are over; `tasks_not_learned` and `tasks_evaluated` are of all tasks.
        The former is NaN if an earlier version evaluated, which did not test.
        """
        chosen = self.in_means
        result = {"macro_loss": mean(self.values["loss"][chosen])}
        for metric in self.measured(SUMMARISED_METRICS):
            result |= {f"{kind}_{metric}": value for kind, value in summarise(self.values[metric][chosen]).items()}
        result |= {f"macro_{metric}": mean(self.values[metric][chosen]) for metric in self.measured(AVERAGED_METRICS)}
        result["tasks_not_learned"] = float(self.not_learned.sum()) if is_tested(self) else float("nan")
        result["tasks_evaluated"] = float((~self.unlabelled).sum())
        result["tasks_in_means"] = float(chosen.sum())
        return result


def is_tested(metrics: TaskMetrics) -> bool:
    """Returns whether tasks were tested against the baseline; an earlier version did not."""
    return "baseline_p" in metrics.values


def describe_not_learned(metrics: TaskMetrics, tasks: Sequence[str] = (), limit: int = 10) -> str:
    """Says on how many tasks, of those of which two classes occur, the network is not better than a constant answer; with the
    first `limit` names of them, if the names of all `tasks` are given."""
    if not is_tested(metrics):
        return f"{NOT_LEARNED}: not known, as an earlier version evaluated"
    count = f"{NOT_LEARNED}: {metrics.not_learned.sum()} of {metrics.tested.sum()}"
    names = [show_name(tasks[i]) for i in np.flatnonzero(metrics.not_learned).tolist()] if tasks else []
    return f"{count}: {shortened(names, limit)}" if names else count


def describe_means(metrics: TaskMetrics) -> str:
    """Says how many tasks the summaries are over, if `min_count` limits them; else an empty text."""
    if not metrics.min_count:
        return ""
    tasks = f"means over {metrics.in_means.sum()} of {(~metrics.unlabelled).sum()} tasks"
    if "smallest_class" not in metrics.values:
        return f"{tasks}: an earlier version evaluated, which did not count the samples of each class"
    return f"{tasks}: at least {metrics.min_count} samples of each class"


def summarise(values: np.ndarray) -> dict[str, float]:
    """Returns every summary of `SUMMARIES` of one metric, shape `(num_tasks,)`, by its key; NaN if no value is defined."""
    known = defined(values)
    if not len(known):
        return dict.fromkeys(SUMMARIES, float("nan"))
    return {
        "macro": float(known.mean()),
        "median": float(np.median(known)),
        "p10": float(np.percentile(known, 10)),
        "worst": float(known.min()),
    }


def why_undefined(task: Task, class_counts: np.ndarray) -> str:
    """Returns why the balanced accuracy of a task is undefined; an empty text if it is defined.

    `class_counts` are the labelled samples of each class, shape `(num_classes,)`.
    """
    present = np.flatnonzero(class_counts)
    if not len(present):
        return NO_LABEL
    return f"only class `{task.classes[present[0]]}` occurs" if len(present) == 1 else ""


def worst_first(values: np.ndarray, ties: np.ndarray | None = None) -> list[int]:
    """Returns the indices of values, lowest first, undefined ones last; of equal ones those with the lower value in `ties`."""
    keys = [np.where(np.isfinite(each), each, np.inf) for each in (values if ties is None else ties, values)]
    order: list[int] = np.lexsort(keys).tolist()
    return order


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides, with NaN where the denominator is zero."""
    quotient: np.ndarray = np.divide(
        numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0
    )
    return quotient


def mean_of_chosen(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Returns the mean over the columns of those values that are chosen and not NaN, shape `(num_rows,)`; NaN where there are
    none. Both arguments have shape `(num_rows, num_columns)`."""
    known = chosen & ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(axis=1), known.sum(axis=1))


def mean(values: np.ndarray) -> float:
    """Returns the mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def defined(values: np.ndarray) -> np.ndarray:
    """Returns the values that are defined."""
    finite: np.ndarray = values[np.isfinite(values)]
    return finite
