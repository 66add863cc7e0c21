"""Is a task's difference noise? The paired randomisation test: A and B are swapped, sample by sample.

If A and B are equally good at every sample, swapping changes nothing, and p is exact, however rare a class. To be right also
where they are equally good on the whole but not at the same samples (B says yes more often than A, say), the difference is
divided by its own standard error, as it stands after each swap. That also makes the test agree with the interval.

Sources: Fisher, *The Design of Experiments*, 1935, section 21; Janssen, *Studentized permutation tests for non-i.i.d.
hypotheses*, Statistics & Probability Letters 36, 1997; Chung and Romano, *Exact and asymptotically robust permutation tests*,
Annals of Statistics 41, 2013. The number of draws: Phipson and Smyth, *Permutation p-values should never be zero*, 2010.
"""

from dataclasses import dataclass

import numpy as np

from matl_scale.report.significance.distribution import Distribution, frequencies, invert, ring_size
from matl_scale.report.significance.paired_counts import PairedCounts

P_FLOOR = 1e-12  # smaller ones would be rounding of the Fourier transforms
TOLERANCE = 1e-9
FIRST_DRAWS, FIRST_P = 2_000, 0.02
LAST_DRAWS = 200_000  # for tasks whose first p is small: correcting for 1,000 tasks needs p of 0.00005
MIN_LAST_DRAWS, WORK = 20_000, 5_000_000  # draws × strata
SEED = 0


@dataclass(frozen=True, kw_only=True)
class Observed:
    """What a swap has to beat. A swap turns what stratum s adds to the difference into `x[s]`, and is as extreme if
    variance · (Σ x)² ≥ difference² · (squares − Σ x² / size).

    Attributes:
        sizes: Samples of each stratum.
        difference: Of the metric.
        squares: Sum of the squares of what each sample adds; swapping does not change it.
        variance: Of the difference, within strata: squares − Σ x² / size, as observed.
    """

    sizes: np.ndarray
    difference: float
    squares: float
    variance: float


def randomisation_p(pairs: PairedCounts) -> float:
    """Returns p, two-sided: the share of all 2^n ways to swap that are at least as extreme as what was found.

    One and two strata (accuracy, binary tasks) are computed, more are drawn, with a fixed seed. For one run each and accuracy
    it is McNemar's exact test. Where A and B are not equally good at every sample, a class with a handful of samples may seem
    certain: give padded counts.
    """
    seen = observe(pairs)
    if abs(seen.difference) < TOLERANCE:
        return 1.0
    if len(seen.sizes) > 2:
        return drawn_p(pairs, seen)
    parts = [swapped_sum(row, weight) for row, weight in zip(pairs.counts, pairs.weights, strict=True)]
    p = single_p(parts[0], seen) if len(parts) == 1 else pair_p(parts[0], parts[1], seen)
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

    The sign of a difference of u steps has the characteristic function cos(u · frequency).

    Args:
        counts: As in `PairedCounts`, shape `(2 * unit + 1,)`.
        weight: By how much one step of a sample moves the metric.
    """
    steps, numbers = fold(counts)
    ring = ring_size(float(numbers @ steps**2), int(numbers @ steps), int(steps[-1]))
    spectrum = (np.cos(np.outer(steps, frequencies(ring))) ** numbers[:, None]).prod(axis=0)
    return invert(spectrum, ring, 0, weight)


def fold(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the sizes of differences, 1 to unit, and how many samples have each, of either sign."""
    unit = len(counts) // 2
    return np.arange(1, unit + 1), counts[unit + 1 :] + counts[:unit][::-1]


def single_p(part: Distribution, seen: Observed) -> float:
    """Returns p of one stratum: the larger a sum, the smaller its standard error."""
    return 2 * float(part.at_least(np.array(abs(seen.difference) - TOLERANCE)))


def pair_p(first: Distribution, second: Distribution, seen: Observed) -> float:
    """Returns p of two strata: for each sum of the first, those of the second outside the roots of a quadratic are extreme."""
    x, variance, square = first.values, seen.variance, seen.difference**2
    size_first, size_second = seen.sizes.tolist()
    a = variance + square / size_second
    half_b = variance * x
    c = (variance + square / size_first) * x**2 - square * seen.squares
    spread = half_b**2 - a * c
    root = np.sqrt(spread.clip(0))
    outside = second.at_most((-half_b - root) / a + TOLERANCE) + second.at_least((-half_b + root) / a - TOLERANCE)
    return float(first.probabilities @ np.where(spread > 0, outside, 1.0).clip(0, 1))


def drawn_p(pairs: PairedCounts, seen: Observed) -> float:
    """Returns p from swaps that are drawn: few, and many more, drawn afresh, if it seems small."""
    generator = np.random.default_rng(SEED)
    p = share_of_extreme(pairs, seen, FIRST_DRAWS, generator)
    if p > FIRST_P:
        return p
    num_draws = int(np.clip(WORK // len(seen.sizes), MIN_LAST_DRAWS, LAST_DRAWS))
    return share_of_extreme(pairs, seen, num_draws, generator)


def share_of_extreme(pairs: PairedCounts, seen: Observed, num_draws: int, generator: np.random.Generator) -> float:
    """Returns (1 + number of extreme draws) / (1 + number of draws), which is a valid p for any number of draws."""
    total, squares = np.zeros(num_draws), np.zeros(num_draws)
    for counts, size, weight in zip(pairs.counts, seen.sizes, pairs.weights, strict=True):
        added = np.zeros(num_draws)
        for step, number in zip(*fold(counts), strict=True):
            if number:
                added += step * (2.0 * generator.binomial(number, 0.5, num_draws) - number)
        added *= weight
        total += added
        squares += added**2 / size
    limit = seen.difference**2 * (seen.squares * (1 - TOLERANCE) - squares)
    return (1 + int((seen.variance * total**2 >= limit).sum())) / (1 + num_draws)
