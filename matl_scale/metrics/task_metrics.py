"""The metrics of all tasks after an evaluation, their summaries over tasks, and why one is undefined.

An undefined value is NaN, and every summary leaves it out. No torch here: reports use it too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from matl_scale.metrics.names import MAIN_METRIC, NOT_BETTER, SUMMARIES, SUMMARISED_METRICS
from matl_scale.tasks import Task

NO_LABEL = "no labelled sample"
ONE_CLASS = "only one class occurs"  # where it is not known which
NEVER_PREDICTED = "the positive class is never predicted"


@dataclass(frozen=True, kw_only=True)
class TaskMetrics:
    """Metrics of all tasks after one evaluation."""

    values: dict[str, np.ndarray]  # per metric of `names.METRICS`, one value per task, NaN where it is undefined
    counts: np.ndarray  # labelled samples of each task

    @property
    def not_better(self) -> np.ndarray:
        """Tasks, as a bool array, on which the network answers no more samples correctly than a constant answer would, which is
        always the most frequent class, and at least one wrongly: where one class alone occurs, nobody can be better than that.

        Numbers of samples are compared, so that rounding does not decide between equals.
        """
        correct, constant = (np.rint(self.values[name] * self.counts) for name in ("accuracy", "majority_accuracy"))
        # false where the task has no sample: both are NaN
        not_better: np.ndarray = correct <= np.minimum(constant, self.counts - 1)
        return not_better

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
        return TaskMetrics(
            values={name: column[chosen] for name, column in self.values.items()}, counts=self.counts[chosen]
        )

    def worst(self, limit: int = 10, metric: str = MAIN_METRIC) -> list[int]:
        """Returns the tasks with the lowest values of a metric, worst first; undefined ones are left out."""
        values = self.values[metric]
        return [task_id for task_id in worst_first(values) if np.isfinite(values[task_id])][:limit]

    def summary(self) -> dict[str, float]:
        """Returns the summaries over tasks by their keys in records, as `macro_auroc`; NaN where no task has a value."""
        result = {"macro_loss": mean(self.values["loss"])}
        for metric in SUMMARISED_METRICS:
            result |= {f"{kind}_{metric}": value for kind, value in summarise(self.values[metric]).items()}
        result["tasks_not_better"] = float(self.not_better.sum())
        result["tasks_evaluated"] = float((self.counts > 0).sum())
        return result


def describe_not_better(summary: Mapping[str, float]) -> str:
    """Says on how many of the evaluated tasks the network is not better than a constant answer."""
    return f"{NOT_BETTER}: {summary['tasks_not_better']:.0f} of {summary['tasks_evaluated']:.0f}"


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


def worst_first(values: np.ndarray) -> list[int]:
    """Returns the indices of values, lowest first, undefined ones last."""
    order: list[int] = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable").tolist()
    return order


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides, with NaN where the denominator is zero."""
    quotient: np.ndarray = np.divide(
        numerator, denominator, out=np.full(len(denominator), np.nan), where=denominator > 0
    )
    return quotient


def mean(values: np.ndarray) -> float:
    """Returns the mean of the values that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def defined(values: np.ndarray) -> np.ndarray:
    """Returns the values that are defined."""
    finite: np.ndarray = values[np.isfinite(values)]
    return finite
