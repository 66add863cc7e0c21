"""Whether a network has learned a task at all: exact tests, corrected over tasks.

Whoever always gives one answer ranks no sample above another, and has a balanced accuracy of 1 / number of classes whatever is
decided. A network is better than that if the samples that it ranks highest for a class are of this class more often than others.
Of as many highest-ranked samples as are of the class, Fisher's exact test says how often chance makes so many right; it is exact
however few samples a class has, and needs no decision, which would be fitted on the very labels. scipy.stats is imported where it
is needed: that takes two seconds.
"""

import math
from collections.abc import Sequence

import numpy as np

FEW = 10  # samples of a class
MOST_EXPECTED = 50.0  # hits by chance, from which the bound on the chance of their sum says nothing
LEVEL = 0.05  # the chance that any task counts as learned where none is


def baseline_p(confusion: np.ndarray) -> float:
    """Returns the p value of one task: see `baseline_p_values`.

    Args:
        confusion: Numbers of samples, true class × predicted class, shape `(num_classes, num_classes)`.
    """
    return float(baseline_p_values([confusion])[0])


def baseline_p_values(confusions: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the probability that answers without any relation to the labels agree with them at least as well.

    For two classes it is that of Fisher's exact test, one-sided (R. A. Fisher, J. R. Stat. Soc. 85, 1922): the numbers of labels
    and of answers of each class are taken as given. For more classes, each one that occurs is tested against all others, and
    the smallest p value counts, times the number of these classes (Bonferroni). Where these have less than FEW samples on
    average, no single class can tell much: the sum of all their hits is then tested as well, and the smaller of both p values
    counts twice.

    Args:
        confusions: One table per task: numbers of samples, true class × predicted class, shape `(num_classes, num_classes)`.

    Returns:
        One p value per task; NaN where fewer than two classes occur.
    """
    tables = [_one_against_all(confusion, _tested_classes(confusion)) for confusion in confusions]
    return _smallest_p_values(tables)


def ranking_p_values(histograms: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the probability that scores without any relation to the labels rank samples at least as well.

    For each class that occurs, as many of the highest-ranked samples are looked at as are of the class, and a few more where
    samples share a score; how many of them are of the class is tested as in `baseline_p_values`.

    Args:
        histograms: One per task: numbers of samples of other classes and of the class, by score, ascending. Shape
            `(num_scores, 2, num_bins)`: a score for each class, or that of class 1 alone for two classes.

    Returns:
        One p value per task; NaN where fewer than two classes occur.
    """
    return _smallest_p_values([_highest_ranked(histogram) for histogram in histograms])


def _highest_ranked(histogram: np.ndarray) -> np.ndarray:
    """Returns for each class to test its samples among the highest-ranked ones, its samples, the highest-ranked ones, and all
    samples: shape `(num_tested, 4)`."""
    support, total = histogram[:, 1].sum(axis=1), histogram.sum(axis=(1, 2))
    tested = np.flatnonzero((support > 0) & (support < total))
    above = np.cumsum(histogram[tested, :, ::-1], axis=2)
    ranked, hits = above.sum(axis=1), above[:, 1]
    enough = (ranked >= support[tested, None]).argmax(axis=1)[:, None]
    columns = [np.take_along_axis(hits, enough, axis=1)[:, 0], support[tested]]
    columns += [np.take_along_axis(ranked, enough, axis=1)[:, 0], total[tested]]
    table: np.ndarray = np.stack(columns, axis=1)
    return table


def _smallest_p_values(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Returns for each task the smallest p value of its tests, times their number; NaN without a test.

    A test is of the number of hits, of samples of the class, of those that were chosen, and of all: shape `(num_tests, 4)`.
    """
    from scipy.stats import hypergeom

    chosen = [i for i, table in enumerate(tables) if len(table)]
    p_values = np.full(len(tables), np.nan)
    if chosen:
        num_tests = np.array([len(tables[i]) for i in chosen])
        hits, support, predicted, total = np.concatenate([tables[i] for i in chosen]).T
        chances = hypergeom.sf(hits - 1, total, support, predicted)
        p_values[chosen] = np.minimum(num_tests * np.minimum.reduceat(chances, np.cumsum(num_tests) - num_tests), 1)
    for i in chosen:
        if len(tables[i]) > 1 and tables[i][:, 1].mean() < FEW:
            p_values[i] = min(2 * min(p_values[i], chance_of_sum(tables[i])), 1)
    return p_values


def chance_of_sum(table: np.ndarray) -> float:
    """Returns an upper bound on the probability that all tests of a task together have so many hits by chance.

    That probability is at most the expected number of ways to choose as many hits from those there are: for each class, ways to
    choose j of its samples, j of the chosen ones and a matching of both, multiplied over classes and summed over all j that make
    up the sum; divided by the matchings of as many samples (J. Riordan, An Introduction to Combinatorial Analysis, 1958, chapter
    7). Sets of chosen samples that overlap only make it smaller.

    Args:
        table: Hits, samples of the class, chosen samples, and all samples, shape `(num_tests, 4)`.
    """
    hits, total = int(table[:, 0].sum()), int(table[0, 3])
    expected = (table[:, 1] * table[:, 2]).sum() / total
    if hits <= expected or expected > MOST_EXPECTED:
        return 1.0
    ways = np.ones(1)  # divided by total ** j
    for support, chosen in table[:, 1:3].tolist():
        j = np.arange(min(support, chosen, hits))
        steps = (support - j) * (chosen - j) / ((j + 1) * total)
        ways = np.convolve(ways, np.concatenate([[1.0], np.cumprod(steps)]))[: hits + 1]
    if ways[hits] == 0:  # smaller than a float can be
        return 0.0
    matchings = math.lgamma(total + 1) - math.lgamma(total - hits + 1) - hits * math.log(total)
    return min(math.exp(math.log(ways[hits]) - matchings), 1.0)


def _tested_classes(confusion: np.ndarray) -> np.ndarray:
    """Returns the classes of a task that are tested: those that occur, none if that is only one, and one of two classes, as both
    would give the same p."""
    present = np.flatnonzero(confusion.sum(axis=1))
    if len(present) < 2:
        return present[:0]
    return present[-1:] if len(confusion) == 2 else present


def _one_against_all(confusion: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Returns, for each class, its hits, its samples, the answers that name it, and all samples: shape `(len(classes), 4)`."""
    hits, support, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    table: np.ndarray = np.stack([hits, support, predicted, np.full(len(hits), support.sum())], axis=1)[classes]
    return table


def beats_baseline(p_values: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Returns which tasks are better than the baseline beyond chance, as a bool array, by Holm's correction over all tasks with a
    p value (S. Holm, Scand. J. Stat. 6, 1979).

    The probability that it names any task where no task is better is at most `level`, however tasks depend on each other.

    Args:
        p_values: One per task, shape `(num_tasks,)`; NaN is never better, and does not count.
        level: That probability.
    """
    known = np.flatnonzero(~np.isnan(p_values))
    ascending = known[np.argsort(p_values[known], kind="stable")]
    remaining = len(known) - np.arange(len(known))
    adjusted = np.maximum.accumulate(remaining * p_values[ascending])
    beats = np.zeros(len(p_values), dtype=bool)
    beats[ascending] = adjusted < level
    return beats
