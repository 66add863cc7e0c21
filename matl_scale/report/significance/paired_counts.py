"""What is compared of a task's samples, and what is made of the results of many tasks. Pure functions of counts.

The difference of a sample is B's correctness − A's (with several runs on a side, their mean correctness). The difference of the
metric is the mean over strata of the mean difference within a stratum: the classes for balanced accuracy, all samples for
accuracy. So it depends on nothing but how many samples of a stratum have which difference; `bootstrap` and `randomisation` start
from these counts.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from matl_scale.metrics.names import PairedMetric

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class PairedCounts:
    """How many samples of a task have which difference."""

    # `counts[s, unit + i]` samples of stratum s have the difference i / unit; shape `(num_strata, 2 * unit + 1)`
    counts: np.ndarray

    @property
    def unit(self) -> int:
        """The number of steps in a difference of 1."""
        return int(self.counts.shape[1]) // 2

    @property
    def sizes(self) -> np.ndarray:
        """The number of samples of each stratum, at least one, shape `(num_strata,)`."""
        totals: np.ndarray = self.counts.sum(axis=1)
        return totals

    @property
    def difference(self) -> float:
        """The difference of the metric, B − A."""
        return float((self.counts @ np.arange(-self.unit, self.unit + 1) / self.sizes).mean() / self.unit)

    @property
    def weights(self) -> np.ndarray:
        """How much one step of one sample changes the metric, shape `(num_strata,)`."""
        return 1 / (self.sizes * self.unit * len(self.counts))

    def padded(self) -> "PairedCounts":
        """Returns the counts with two more samples in each stratum: one that only A gets right, and one that only B does.

        Without them, a class with few samples, on which A and B agree by chance, would seem certain. Simulated with 50 binary
        tasks of 300 negatives, and two sides that are equally good but predict the positive class unequally often: with 9
        positives, something is significant in 10 % of the comparisons instead of 68 %; with 3, in none instead of all.

        Source: Bonett and Price, *Adjusted Wald confidence interval for a difference of binomial proportions based on paired
        data*, Journal of Educational and Behavioral Statistics 37, 2012.
        """
        counts = self.counts.copy()
        counts[:, [0, -1]] += 1
        return PairedCounts(counts=counts)


def metric_of_runs(labels: np.ndarray, correct: np.ndarray, metric: PairedMetric) -> np.ndarray:
    """Returns accuracy, or the mean over the classes that occur of the accuracy within the class, shape `(num_runs,)`.

    `labels` are class indices, `(num_samples,)`, none missing; `correct` is bool, `(num_runs, num_samples)`.
    """
    if metric == "accuracy":
        accuracy: np.ndarray = correct.mean(axis=1)
        return accuracy
    sizes = np.bincount(labels)
    hits = np.stack([np.bincount(labels[correct_of_run], minlength=len(sizes)) for correct_of_run in correct])
    balanced: np.ndarray = (hits[:, sizes > 0] / sizes[sizes > 0]).mean(axis=1)
    return balanced


def count_pairs(labels: np.ndarray, correct_a: np.ndarray, correct_b: np.ndarray, metric: PairedMetric) -> PairedCounts:
    """Counts the differences of a task's samples, in the strata of the metric.

    `labels` are class indices, `(num_samples,)`, none missing; `correct_a` and `correct_b` are bool, `(num_runs, num_samples)`,
    and may be of unequal numbers of runs.
    """
    unit = int(np.lcm(len(correct_a), len(correct_b)))
    steps = correct_b.sum(axis=0) * (unit // len(correct_b)) - correct_a.sum(axis=0) * (unit // len(correct_a))
    strata = labels if metric == "balanced_accuracy" else np.zeros_like(labels)
    width = 2 * unit + 1
    cells = strata.astype(np.int64) * width + steps + unit
    counts = np.bincount(cells, minlength=width * (int(strata.max()) + 1)).reshape(-1, width)
    return PairedCounts(counts=counts[counts.any(axis=1)])


def adjust_p(p: np.ndarray) -> np.ndarray:
    """Corrects p values, shape `(num_tasks,)`, for their number; NaN stays NaN.

    Tasks share their test images, so their p values are dependent, presumably positively; the procedure still controls the false
    discovery rate then (Benjamini and Yekutieli, 2001).

    Source: Benjamini and Hochberg, *Controlling the False Discovery Rate*, J. R. Stat. Soc. B 57, 1995.
    """
    from scipy.stats import false_discovery_control  # importing it takes two seconds, which a report of one run saves

    adjusted, defined = np.full(len(p), np.nan), np.isfinite(p)
    if defined.any():
        adjusted[defined] = false_discovery_control(p[defined], method="bh")
    return adjusted


def seed_margin(values_a: np.ndarray, values_b: np.ndarray) -> np.ndarray:
    """Returns how much the means of two sides differ through their seeds alone, 95 % of the time, shape `(num_tasks,)`.

    This is half the width of Student's interval, with one variance for both sides; NaN if each side is one run. The values of a
    side have shape `(num_runs, num_tasks)`; the numbers of runs may differ.
    """
    runs_a, runs_b = len(values_a), len(values_b)
    freedom = runs_a + runs_b - 2
    if not freedom:
        return np.full(values_a.shape[1], np.nan)
    squares = runs_a * values_a.var(axis=0) + runs_b * values_b.var(axis=0)
    quantile = special.stdtrit(freedom, (1 + LEVEL) / 2)
    margin: np.ndarray = quantile * np.sqrt(squares / freedom * (1 / runs_a + 1 / runs_b))
    return margin
