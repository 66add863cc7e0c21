"""Is the best variant better than the others beyond chance, over seeds? And how many seeds would tell?"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import special

from matl_scale.report.sweep.two_way import TwoWayFit

MAX_SEEDS = 100  # beyond it, a number of seeds is no advice
POWER = 0.8


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The best variant's macro figure less that of another one."""

    value: float  # NaN if no seeds tie the two
    half_width: float  # of the interval that holds for all pairs of variants at once; NaN if nothing can be told
    p: float  # of Tukey's test; NaN if nothing can be told


def find_highest(macro: TwoWayFit) -> int:
    """Returns the index of the best variant, on the seeds that variants share; if seeds do not tie all of them together, of the
    largest group that they do."""
    group = macro.connected[macro.connected.sum(axis=1).argmax()]
    alone = group.sum() == 1
    effects = macro.means[:, 0] if alone else np.where(group, macro.effects[:, 0], -np.inf)
    return int(effects.argmax())


def compare_pair(fit: TwoWayFit, first: int, second: int, alpha: float) -> Difference:
    """Compares two variants, of which one may have been chosen because it is the best.

    Tukey's test controls the chance of any false difference among all pairs, so that it stays valid for pairs that are chosen by
    their results: a comparison of the best with the others that ignores the choice does not. With missing runs it is Kramer's
    variant.

    Sources: Tukey, *The Problem of Multiple Comparisons*, 1953; Kramer, Biometrics 12, 1956; Hayter, *A proof of the conjecture
    that the Tukey-Kramer multiple comparisons procedure is conservative*, Annals of Statistics 12, 1984.
    """
    difference = float(fit.differences(first, second)[0])
    if not fit.freedom or not fit.connected[first, second]:
        return Difference(value=difference, half_width=float("nan"), p=float("nan"))
    error = float(np.sqrt(fit.variances[0] * fit.scale(first, second) / 2))
    p = 1.0 if difference == 0 else 0.0 if error == 0 else range_p(abs(difference) / error, fit)
    return Difference(value=difference, half_width=margin(fit, first, second, alpha), p=p)


def margin(fit: TwoWayFit, first: int, second: int, alpha: float) -> float:
    """Returns how large a difference of two variants has to be, so that Tukey's test calls them different."""
    error = float(np.sqrt(fit.variances[0] * fit.scale(first, second) / 2))
    return range_quantile(1 - alpha, max(fit.num_distinct, 2), fit.freedom) * error


def range_p(statistic: float, fit: TwoWayFit) -> float:
    """Returns the chance of a larger studentised range."""
    if fit.num_distinct == 2:
        return float(2 * special.stdtr(fit.freedom, -statistic / np.sqrt(2)))
    from scipy.stats import studentized_range  # importing it takes two seconds, which other reports save

    return float(np.clip(studentized_range.sf(statistic, fit.num_distinct, fit.freedom), 0, 1))


@cache
def range_quantile(level: float, num_variants: int, freedom: int) -> float:
    """Returns a quantile of the studentised range."""
    if num_variants == 2:
        return float(np.sqrt(2) * special.stdtrit(freedom, (1 + level) / 2))
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(level, num_variants, freedom))


def mean_interval(fit: TwoWayFit, num_seeds: int, level: float) -> float:
    """Returns half the width of the interval of a variant's mean over its seeds; NaN if nothing can be told.

    They are for looking at variants beside each other: the luck of a seed, which all variants share, is left out, as it is in the
    comparisons. Two means differ, as a single comparison, if they are further apart than √2 times such a half.

    Source: Loftus and Masson, *Using confidence intervals in within-subject designs*, Psychonomic Bulletin & Review 1, 1994.

    Args:
        fit: The model of the figure.
        num_seeds: Of the variant.
        level: The share of intervals that hold the mean of infinitely many seeds.
    """
    if not fit.freedom:
        return float("nan")
    return float(special.stdtrit(fit.freedom, (1 + level) / 2) * np.sqrt(fit.variances[0] / num_seeds))


def seeds_needed(difference: float, variance: float, num_variants: int, alpha: float) -> int | None:
    """Returns how many seeds of every variant would show a difference of this size in four of five sweeps, if the noise stays as
    it is; None if more than `MAX_SEEDS`, or there is no difference.

    The power of the test is approximated by that of a shifted Student distribution.
    """

    def shows(seeds: int) -> bool:
        freedom = (num_variants - 1) * (seeds - 1)
        needed = range_quantile(1 - alpha, num_variants, freedom) / np.sqrt(2) + special.stdtrit(freedom, POWER)
        return bool(needed * np.sqrt(2 * variance / seeds) <= abs(difference))

    low, high = 1, MAX_SEEDS  # `low` does not show it
    if difference == 0 or num_variants < 2 or not shows(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high
