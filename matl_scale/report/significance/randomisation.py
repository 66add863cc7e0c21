"""Is a task's difference noise? The paired randomisation test: A and B are swapped, sample by sample.

If A and B are equally good at every sample, swapping changes nothing, and p is exact, however rare a class is. To be right also
where they are equally good overall but not at the same samples (B predicts the positive class more often than A, say), the test
divides the difference by its own standard error, computed anew after each swap. That also makes it agree with the interval.

Sources: Fisher, *The Design of Experiments*, 1935, section 21; Janssen, *Studentized permutation tests for non-i.i.d.
hypotheses*, Statistics & Probability Letters 36, 1997; Chung and Romano, *Exact and asymptotically robust permutation tests*,
Annals of Statistics 41, 2013. The number of draws: Phipson and Smyth, *Permutation p-values should never be zero*, 2010.
"""

from dataclasses import dataclass

import numpy as np

from matl_scale.report.significance.distribution import Distribution, frequencies, invert, ring_size
from matl_scale.report.significance.paired_counts import PairedCounts

P_FLOOR = 1e-12  # below it, values would be rounding errors of the Fourier transforms
TOLERANCE = 1e-9
FIRST_DRAWS, FIRST_P = 2_000, 0.02
LAST_DRAWS = 200_000  # for tasks whose first p is small: correcting for 1,000 tasks needs p of 0.00005
MIN_LAST_DRAWS, MAX_WORK = 20_000, 5_000_000  # work is draws × strata
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Observed:
    """The observed statistic. A swap turns what stratum s adds to the difference into `x[s]`, and is as extreme if
    variance · (Σ x)² ≥ difference² · (squares − Σ x² / size).
    """

    sizes: np.ndarray  # the number of samples of each stratum
    difference: float  # the difference of the metric
    squares: float  # the sum of the squares of what each sample adds; swapping does not change it
    variance: float  # the variance of the difference within strata: squares − Σ x² / size, as observed


def randomisation_p(pairs: PairedCounts) -> float:
    """Returns p, two-sided: the share of all 2^n ways to swap that are at least as extreme as what was observed.

    For one and two strata (accuracy, binary tasks) it is computed; for more, swaps are drawn with a fixed seed. For accuracy and
    one run on each side it is McNemar's exact test. Where A and B are not equally good at every sample, a class with a
    handful of samples may seem certain: pass padded counts.
    """
    observed = observe(pairs)
    if abs(observed.difference) < TOLERANCE:
        return 1.0
    if len(observed.sizes) > 2:
        return drawn_p(pairs, observed)
    sums = [swapped_sum(counts, weight) for counts, weight in zip(pairs.counts, pairs.weights, strict=True)]
    p = one_stratum_p(sums[0], observed) if len(sums) == 1 else two_strata_p(sums[0], sums[1], observed)
    return float(np.clip(p, P_FLOOR, 1.0))


def observe(pairs: PairedCounts) -> Observed:
    sizes, steps = pairs.sizes, np.arange(-pairs.unit, pairs.unit + 1)
    weights = pairs.weights
    added = pairs.counts @ steps * weights
    squares = float(pairs.counts @ steps**2 @ weights**2)
    variance = max(0.0, squares - float((added**2 / sizes).sum()))
    return Observed(sizes=sizes, difference=float(added.sum()), squares=squares, variance=variance)


def swapped_sum(counts: np.ndarray, weight: float) -> Distribution:
    """Returns the distribution of what a stratum adds to the difference when A and B are swapped at random.

    A difference of u steps with a random sign has the characteristic function cos(u · frequency). `counts`, `(2 * unit + 1,)`,
    and `weight` are those of one stratum of `PairedCounts`.
    """
    steps, counts = count_sizes(counts)
    ring = ring_size(float(counts @ steps**2), int(counts @ steps), int(steps[-1]))
    spectrum = (np.cos(np.outer(steps, frequencies(ring))) ** counts[:, None]).prod(axis=0)
    return invert(spectrum, ring, 0, weight)


def count_sizes(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the possible sizes of a difference, 1 to unit, and how many samples have each, whatever the sign."""
    unit = len(counts) // 2
    return np.arange(1, unit + 1), counts[unit + 1 :] + counts[:unit][::-1]


def one_stratum_p(swapped: Distribution, observed: Observed) -> float:
    """Returns p for one stratum: the larger a sum, the smaller its standard error, so sums alone are compared."""
    return 2 * float(swapped.at_least(np.array(abs(observed.difference) - TOLERANCE)))


def two_strata_p(first: Distribution, second: Distribution, observed: Observed) -> float:
    """Returns p for two strata: for each sum of the first, those of the second outside the roots of a quadratic are extreme."""
    x, variance, square = first.values, observed.variance, observed.difference**2
    size_first, size_second = observed.sizes.tolist()
    a = variance + square / size_second
    half_b = variance * x
    c = (variance + square / size_first) * x**2 - square * observed.squares
    discriminant = half_b**2 - a * c
    root = np.sqrt(discriminant.clip(0))
    outside = second.at_most((-half_b - root) / a + TOLERANCE) + second.at_least((-half_b + root) / a - TOLERANCE)
    return float(first.probabilities @ np.where(discriminant > 0, outside, 1.0).clip(0, 1))


def drawn_p(pairs: PairedCounts, observed: Observed) -> float:
    """Returns p from swaps that are drawn: few at first, and if p seems small, many new ones."""
    generator = np.random.default_rng(SEED)
    p = share_of_extreme(pairs, observed, FIRST_DRAWS, generator)
    if p > FIRST_P:
        return p
    num_draws = int(np.clip(MAX_WORK // len(observed.sizes), MIN_LAST_DRAWS, LAST_DRAWS))
    return share_of_extreme(pairs, observed, num_draws, generator)


def share_of_extreme(pairs: PairedCounts, observed: Observed, num_draws: int, generator: np.random.Generator) -> float:
    """Returns (1 + number of extreme draws) / (1 + number of draws), which is a valid p for any number of draws."""
    total, squares = np.zeros(num_draws), np.zeros(num_draws)
    for counts, size, weight in zip(pairs.counts, observed.sizes, pairs.weights, strict=True):
        added = np.zeros(num_draws)
        for step, count in zip(*count_sizes(counts), strict=True):
            if count:
                added += step * (2.0 * generator.binomial(count, 0.5, num_draws) - count)
        added *= weight
        total += added
        squares += added**2 / size
    limit = observed.difference**2 * (observed.squares * (1 - TOLERANCE) - squares)
    return (1 + int((observed.variance * total**2 >= limit).sum())) / (1 + num_draws)
