"""The results of comparing two runs, or two groups of runs: plain values that terminal, JSON and page show.

B − A throughout: a positive difference means that B is better.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from matl_scale.metrics.names import PairedMetric
from matl_scale.metrics.task_metrics import mean

Verdict = Literal["improved", "unchanged", "regressed", "undefined"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
SIGNIFICANT: tuple[Verdict, ...] = ("regressed", "improved")  # in the order in which tasks are listed
Kind = Literal["runs", "single-task"]
HEADINGS: Mapping[Kind, Mapping[Verdict, str]] = {
    "runs": {name: name for name in VERDICTS},
    "single-task": {
        "improved": "sharing helped",
        "unchanged": "no difference",
        "regressed": "sharing hurt",
        "undefined": "undefined",
    },
}
METHOD = (
    "Interval: paired bootstrap over test samples (percentiles of infinitely many resamples), within classes for balanced "
    "accuracy. p: paired randomisation test of the difference over its standard error, two-sided, corrected over tasks by "
    "Benjamini and Hochberg. For both, each class gets two more samples, one that only A gets right and one that only B does. "
    "Both are about the noise of the test samples, for these networks as they were trained; the spread over seeds shows what "
    "another training would change."
)


@dataclass(frozen=True, kw_only=True)
class TaskDifference:
    """One task. Values are NaN where they are undefined."""

    task: str  # the task's name
    count: int  # the number of labelled samples that were compared
    value_a: float  # the metric of A, the mean over its runs
    value_b: float  # the metric of B, the mean over its runs
    difference: float  # B − A
    low: float  # lower end of the 95 % interval of the difference
    high: float  # upper end of the interval
    p: float  # the p value of the randomisation test
    p_adjusted: float  # the same, corrected for the number of tasks in the comparison
    verdict: Verdict  # `improved` or `regressed` if `p_adjusted` is at most alpha
    reason: str = ""  # why the difference is undefined, or a warning; else empty


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of A and B on all tasks."""

    name_a: str  # the name of A
    name_b: str  # the name of B
    runs_a: list[str]  # names of the runs of A, each with its step, as `digits (step 1000)`
    runs_b: list[str]  # names of the runs of B
    split: str  # what was evaluated
    metric: PairedMetric  # what is compared
    alpha: float  # the false discovery rate
    tasks: list[TaskDifference]  # in the order of the first run
    config_changes: list[str]  # the differences of the configs, as `key: A → B`
    left_out: list[str]  # tasks that are not compared, as `name: why`
    # standard deviation of the metric over the runs of A, shape `(num_tasks,)`; None if it is one run
    spread_a: np.ndarray | None = None
    spread_b: np.ndarray | None = None  # the same of B
    kind: Kind = "runs"  # `single-task`: A is one run per task, trained on that task alone, and B the run that shares
    notes: list[str] = field(default_factory=list)  # what a reader should know besides the numbers, a sentence each

    def with_verdict(self, verdict: Verdict) -> list[TaskDifference]:
        """Returns the tasks of one verdict, the largest differences first."""
        chosen = [task for task in self.tasks if task.verdict == verdict]
        return sorted(chosen, key=lambda task: 0.0 if np.isnan(task.difference) else -abs(task.difference))

    def heading(self, verdict: Verdict) -> str:
        """Returns the heading of the tasks of one verdict."""
        return HEADINGS[self.kind][verdict]


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """One metric of runs of one config that differ in their seeds."""

    runs: list[str]  # names of the runs, each with its step
    split: str  # what was evaluated
    metric: PairedMetric  # what was measured
    tasks: list[str]  # names
    values: np.ndarray  # shape `(num_runs, num_tasks)`, NaN where it is undefined
    left_out: list[str]  # tasks that are not in all runs, as `name: why`

    @property
    def run_means(self) -> np.ndarray:
        """Mean over tasks of each run, undefined values left out, shape `(num_runs,)`."""
        return np.array([mean(values) for values in self.values])

    @property
    def mean(self) -> np.ndarray:
        """Mean over the runs, shape `(num_tasks,)`."""
        mean: np.ndarray = self.values.mean(axis=0)
        return mean

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation over the runs (with n − 1), shape `(num_tasks,)`."""
        spread: np.ndarray = self.values.std(axis=0, ddof=1)
        return spread

    @property
    def low(self) -> np.ndarray:
        """The value of the worst run, shape `(num_tasks,)`."""
        least: np.ndarray = self.values.min(axis=0)
        return least

    @property
    def high(self) -> np.ndarray:
        """The value of the best run, shape `(num_tasks,)`."""
        largest: np.ndarray = self.values.max(axis=0)
        return largest

    def most_different_first(self) -> list[int]:
        """Returns the indices of the tasks by their standard deviation, the largest first, undefined ones last."""
        order: list[int] = np.argsort(-np.nan_to_num(self.sd, nan=-1.0), kind="stable").tolist()
        return order
