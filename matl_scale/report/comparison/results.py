"""What is asked of a comparison of runs, and its results: plain values that terminal, JSON and page show.

B − A throughout: a positive difference means that B is better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np

from matl_scale.metrics.names import PairedMetric
from matl_scale.metrics.task_metrics import mean
from matl_scale.report.facts import RunFacts
from matl_scale.report.suspects.suspect_list import SuspectList
from matl_scale.runs.history import RunHistory

NAN = float("nan")
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
class Question:
    """What is asked of a comparison: the options of the command that concern it."""

    split: str
    metric: PairedMetric
    alpha: float  # the false discovery rate
    patterns: Sequence[str] = ()  # which tasks; all if empty
    min_count: int = 0  # means are over tasks with at least as many samples of each class
    common_tasks: bool = False  # leave out tasks that not all runs have with equal labels, instead of refusing


@dataclass(frozen=True, kw_only=True)
class TaskDifference:
    """One task. Values are NaN where they are undefined."""

    task: str
    count: int  # the number of labelled samples that were compared
    smallest_class: int  # the number of those of the class that has the fewest; 0 if one does not occur
    value_a: float = NAN  # the metric of A, the mean over its runs
    value_b: float = NAN
    difference: float = NAN  # B − A
    low: float = NAN  # lower end of the 95 % interval of the difference
    high: float = NAN
    p: float = NAN  # of the randomisation test
    p_adjusted: float = NAN  # the same, corrected for the number of tasks in the comparison
    verdict: Verdict  # `improved` or `regressed` if `p_adjusted` is at most alpha
    reason: str = ""  # why the difference is undefined, or a warning; else empty


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The comparison of A and B on all tasks."""

    name_a: str
    name_b: str
    runs_a: list[str]  # names of the runs of A, each with its step, as `digits (step 1000)`
    runs_b: list[str]
    split: str
    metric: PairedMetric
    alpha: float  # the false discovery rate
    tasks: list[TaskDifference]  # in the order of the first run
    config_changes: list[str]  # the differences of the configs, as `key: A → B`
    left_out: list[str]  # tasks that are not compared, as `name: why`
    # standard deviation of the metric over the runs of A, shape `(num_tasks,)`; None if it is one run
    spread_a: np.ndarray | None = None
    spread_b: np.ndarray | None = None  # the same of B
    kind: Kind = "runs"  # `single-task`: A is one run per task, trained on that task alone, and B the run that shares
    min_count: int = 0  # the mean difference is over tasks with at least as many samples of each class
    notes: list[str] = field(default_factory=list)  # what a reader should know besides the numbers, a sentence each

    def with_verdict(self, verdict: Verdict) -> list[TaskDifference]:
        """Returns the tasks of one verdict, the largest differences first."""
        chosen = [task for task in self.tasks if task.verdict == verdict]
        return sorted(chosen, key=lambda task: 0.0 if np.isnan(task.difference) else -abs(task.difference))

    @property
    def in_means(self) -> list[TaskDifference]:
        """The tasks that the mean difference is over: those with a difference and enough samples of each class."""
        enough = (task for task in self.tasks if task.smallest_class >= self.min_count)
        return [task for task in enough if np.isfinite(task.difference)]

    def heading(self, verdict: Verdict) -> str:
        """Returns the heading of the tasks of one verdict."""
        return HEADINGS[self.kind][verdict]


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """One metric of runs of one config that differ in their seeds."""

    runs: list[str]  # names of the runs, each with its step
    split: str
    metric: PairedMetric
    tasks: list[str]
    values: np.ndarray  # shape `(num_runs, num_tasks)`, NaN where it is undefined
    in_means: (
        np.ndarray
    )  # which tasks have enough samples of each class for the runs' means, bool, shape `(num_tasks,)`
    left_out: list[str]  # tasks that are not in all runs, as `name: why`

    @property
    def run_means(self) -> np.ndarray:
        """Mean over tasks of each run, undefined values and tasks with too few samples left out, shape `(num_runs,)`."""
        return np.array([mean(values[self.in_means]) for values in self.values])

    @property
    def over_runs(self) -> dict[str, np.ndarray]:
        """Mean, standard deviation (with n − 1), minimum and maximum over the runs, each of shape `(num_tasks,)`."""
        values = self.values
        return {
            "mean": values.mean(axis=0),
            "sd": values.std(axis=0, ddof=1),
            "min": values.min(axis=0),
            "max": values.max(axis=0),
        }

    def most_different_first(self) -> list[int]:
        """Returns the indices of the tasks by their standard deviation, the largest first, undefined ones last."""
        order: list[int] = np.argsort(-np.nan_to_num(self.over_runs["sd"], nan=-1.0), kind="stable").tolist()
        return order


@dataclass(frozen=True, kw_only=True)
class Results:
    """What a report prints, and writes as JSON and as a page."""

    runs: list[RunHistory]
    split: str
    min_count: int = 0  # means are over tasks with at least as many samples of each class
    facts: RunFacts | None = None  # of the chosen tasks, if there is one run; else None
    comparisons: list[Comparison] = field(default_factory=list)
    spread: SeedSpread | None = None
    suspects: SuspectList | None = None  # labels of one run that are likely wrong, if they were asked for
