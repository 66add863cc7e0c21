"""What a comparison of two runs, or of two groups of runs, comes to: plain values that terminal, JSON and page show.

B − A throughout: a positive difference means that B is better.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from matl_scale.report.significance.paired_counts import Metric

METRICS: tuple[Metric, ...] = ("balanced_accuracy", "accuracy")
Verdict = Literal["improved", "unchanged", "regressed", "undefined"]
VERDICTS: tuple[Verdict, ...] = ("improved", "unchanged", "regressed", "undefined")
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
    """One task. Values are NaN where they are undefined.

    Attributes:
        task: Its name.
        count: Labelled samples that were compared.
        value_a: The metric of A, the mean over its runs.
        value_b: Of B.
        difference: B − A.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        p: Of the randomisation test.
        p_adjusted: The same, corrected over the tasks of the comparison.
        verdict: `improved` or `regressed` if `p_adjusted` is at most alpha.
        reason: Why it is undefined, or what to beware of; else empty.
    """

    task: str
    count: int
    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    p: float
    p_adjusted: float
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All tasks.

    Attributes:
        name_a: What A is called.
        name_b: What B is called.
        runs_a: Names of the runs of A, each with its step, as `digits (step 1000)`.
        runs_b: Of B.
        split: What was evaluated.
        metric: Which metric the values are.
        alpha: The false discovery rate.
        tasks: In the order of the first run.
        config_changes: In what the configs differ, as `key: A → B`.
        left_out: Tasks that are not compared, as `name: why`.
        spread_a: Standard deviation of the metric over the runs of A, shape `(num_tasks,)`; None if it is one run.
        spread_b: Of B.
        kind: `single-task`: A is one run per task, trained on that task alone, and B the run that shares.
        notes: What a reader should know beside the numbers, a sentence each.
    """

    name_a: str
    name_b: str
    runs_a: list[str]
    runs_b: list[str]
    split: str
    metric: Metric
    alpha: float
    tasks: list[TaskDifference]
    config_changes: list[str]
    left_out: list[str]
    spread_a: np.ndarray | None = None
    spread_b: np.ndarray | None = None
    kind: Kind = "runs"
    notes: list[str] = field(default_factory=list)

    def with_verdict(self, verdict: Verdict) -> list[TaskDifference]:
        """Returns the tasks of one list, the largest differences first."""
        chosen = [task for task in self.tasks if task.verdict == verdict]
        return sorted(chosen, key=lambda task: 0.0 if np.isnan(task.difference) else -abs(task.difference))

    def heading(self, verdict: Verdict) -> str:
        """Returns what a list is called."""
        return HEADINGS[self.kind][verdict]


@dataclass(frozen=True, kw_only=True)
class SeedSpread:
    """One metric of runs of one config that differ in their seeds.

    Attributes:
        runs: Names of the runs, each with its step.
        split: What was evaluated.
        metric: Which metric.
        tasks: Names.
        values: Shape `(num_runs, num_tasks)`, NaN where it is undefined.
        left_out: Tasks that are not in all runs, as `name: why`.
    """

    runs: list[str]
    split: str
    metric: Metric
    tasks: list[str]
    values: np.ndarray
    left_out: list[str]

    @property
    def mean(self) -> np.ndarray:
        """Over the runs, shape `(num_tasks,)`."""
        return self.values.mean(axis=0)

    @property
    def sd(self) -> np.ndarray:
        """Standard deviation over the runs (n − 1 below the fraction line), shape `(num_tasks,)`."""
        return self.values.std(axis=0, ddof=1)

    @property
    def low(self) -> np.ndarray:
        """The worst run's, shape `(num_tasks,)`."""
        return self.values.min(axis=0)

    @property
    def high(self) -> np.ndarray:
        """The best run's, shape `(num_tasks,)`."""
        return self.values.max(axis=0)
