"""The interval of a task's difference: the paired bootstrap over samples, with infinitely many resamples.

To resample is to draw counts, and the distribution of their sums can be computed, so nothing is drawn.
"""

import numpy as np
from scipy import fft

from matl_scale.report.significance.distribution import REACH_SDS, Distribution, frequencies, invert, ring_size
from matl_scale.report.significance.paired_counts import LEVEL, PairedCounts

GRID_SIZE = 1 << 16  # points of the common grid of sums over strata of different sizes
TOLERANCE = 1e-12


def bootstrap_interval(pairs: PairedCounts, level: float = LEVEL) -> tuple[float, float]:
    """Returns the percentile interval of the difference from the paired bootstrap over samples.

    Samples are drawn within strata. For accuracy that is the plain bootstrap. For balanced accuracy it leaves the number of
    samples of each class unchanged, because the metric is about what happens within each class, however many samples it has: how
    often a class occurs in the test set carries no information on it, and the randomisation test leaves it unchanged too. Drawn
    from all samples, a class with n of them would be missing, and the metric undefined, in e^−n of the resamples. A class
    with a handful of samples shows less variation than it has: pass padded counts.

    Source: Efron and Tibshirani, *An Introduction to the Bootstrap*, 1993, chapter 13 (percentiles); the "ideal" bootstrap of
    infinitely many resamples, chapter 6.
    """
    sizes, weights = pairs.sizes, pairs.weights
    sums = [resampled_sum(pairs.counts[sizes == size], weights[sizes == size][0]) for size in np.unique(sizes)]
    total = add_distributions(sums)
    cumulative = np.cumsum(total.probabilities)
    ends = np.searchsorted(cumulative, [(1 - level) / 2 - TOLERANCE, (1 + level) / 2 - TOLERANCE])
    low, high = total.values[np.minimum(ends, len(cumulative) - 1)].tolist()
    return low, high


def resampled_sum(counts: np.ndarray, weight: float) -> Distribution:
    """Returns the distribution of what strata of one size add to the difference, each resampled with replacement.

    A sum of independent draws has the product of their characteristic functions. `counts`, `(num_strata, 2 * unit + 1)`, and
    `weight` are those of `PairedCounts`.
    """
    unit, size = counts.shape[1] // 2, int(counts[0].sum())
    steps, shares = np.arange(-unit, unit + 1), counts / size
    means = shares @ steps
    ring = ring_size(size * float((shares @ steps**2 - means**2).sum()), 2 * size * len(counts) * unit, unit)
    spectrum = ((shares @ np.exp(-1j * np.outer(steps, frequencies(ring)))) ** size).prod(axis=0)
    return invert(spectrum, ring, round(size * float(means.sum())), weight)


def add_distributions(terms: list[Distribution]) -> Distribution:
    """Returns the distribution of the sum of independent numbers; several are first rounded to a common grid.

    The grid is finer than a thousandth of the sum's standard deviation.
    """
    if len(terms) == 1:
        return terms[0]
    variance = sum(float(term.probabilities @ (term.values - term.centre) ** 2) for term in terms)
    reaches = [term.reach for term in terms]
    reach = min(REACH_SDS * variance**0.5 + max(reaches), sum(reaches))
    step = 2 * reach / (GRID_SIZE - len(terms) - 2)
    spectrum = np.ones(GRID_SIZE // 2 + 1, dtype=complex)
    for term in terms:
        grid_points = np.rint((term.values - term.centre) / step).astype(np.int64) % GRID_SIZE
        spectrum *= fft.rfft(np.bincount(grid_points, term.probabilities, GRID_SIZE))
    total = invert(spectrum, GRID_SIZE, 0, step)
    return Distribution(values=total.values + sum(term.centre for term in terms), probabilities=total.probabilities)
