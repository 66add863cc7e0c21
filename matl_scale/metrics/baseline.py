"""Whether a network's answers are better than a constant answer beyond chance: exact tests, corrected over tasks.

Whoever always gives one answer has a balanced accuracy of 1 / number of classes. Better than that are answers that go
together with the labels. Of answers that have nothing to do with the labels, Fisher's exact test says how often chance makes
them agree as well or better; it is exact however few samples a class has. scipy.stats is imported where it is needed: that
takes two seconds.
"""

from collections.abc import Sequence

import numpy as np

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
    the smallest p value counts, times the number of these classes (Bonferroni).

    Args:
        confusions: One table per task: numbers of samples, true class × predicted class, shape `(num_classes, num_classes)`.

    Returns:
        One p value per task; NaN where fewer than two classes occur.
    """
    from scipy.stats import hypergeom

    tested = [_tested_classes(confusion) for confusion in confusions]
    chosen = [i for i, classes in enumerate(tested) if len(classes)]
    p_values = np.full(len(confusions), np.nan)
    if chosen:
        num_tests = np.array([len(tested[i]) for i in chosen])
        tables = np.concatenate([_one_against_all(confusions[i], tested[i]) for i in chosen])
        hits, support, predicted, total = tables.T
        chances = hypergeom.sf(hits - 1, total, support, predicted)
        p_values[chosen] = np.minimum(num_tests * np.minimum.reduceat(chances, np.cumsum(num_tests) - num_tests), 1)
    return p_values


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
