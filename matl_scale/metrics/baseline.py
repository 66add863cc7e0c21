"""Whether a network has learned a task at all: exact tests, corrected over tasks.

Whoever always gives one answer ranks no sample above another, and has a balanced accuracy of 1 / number of classes whatever is
decided. A network is better than that if the samples that it ranks highest for a class are of this class more often than others.
Of as many highest-ranked samples as are of the class, Fisher's exact test says how often chance makes so many right; it is exact
however few samples a class has, and needs no decision, which would be fitted on the very labels. scipy.stats is imported where it
is needed: that takes two seconds.
"""

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln

FEW = 10  # samples of a class
MOST_EXPECTED = 50.0  # hits by chance, from which the bound on the chance of their sum says nothing
TASKS_AT_ONCE = 256  # whose ways to have so many hits are counted together
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
    p_values, num_classes = np.full(len(confusions), np.nan), np.array([len(each) for each in confusions])
    for count in np.unique(num_classes):
        task_ids = np.flatnonzero(num_classes == count)
        tests = _one_against_all(np.stack([confusions[i] for i in task_ids.tolist()]))
        p_values[task_ids] = smallest_p_values(tests.reshape(-1, 4), np.full(len(tests), tests.shape[1]))
    return p_values


def count_highest_ranked(histograms: np.ndarray) -> np.ndarray:
    """Returns what tests of rankings are of: for each class its samples among the highest-ranked ones, its samples, the
    highest-ranked ones, and all samples, shape `(num_classes, 4)`. `smallest_p_values` gives the probability that scores without
    any relation to the labels rank samples at least as well.

    As many of the highest-ranked samples are looked at as are of the class, and a few more where samples share a score; how many
    of them are of the class is tested as in `baseline_p_values`.

    Args:
        histograms: Numbers of samples of other classes and of the class, by score, ascending, shape `(num_classes, 2, num_bins)`.
    """
    support, total = histograms[:, 1].sum(axis=1), histograms.sum(axis=(1, 2))
    hits, others = (np.cumsum(histograms[:, own, ::-1], axis=1) for own in (1, 0))
    ranked = hits + others
    enough = (ranked >= support[:, None]).argmax(axis=1)[:, None]
    chosen = (np.take_along_axis(counts, enough, axis=1)[:, 0] for counts in (hits, ranked))
    tests: np.ndarray = np.stack([next(chosen), support, next(chosen), total], axis=1)
    return tests


def smallest_p_values(tests: np.ndarray, num_tests: np.ndarray) -> np.ndarray:
    """Returns for each task the smallest p value of its tests, times their number; NaN without a test. Classes without a sample,
    or without a sample of another class, are not tested.

    Args:
        tests: Numbers of hits, of samples of the class, of those that were chosen, and of all, shape `(num_classes, 4)`: task
            by task.
        num_tests: How many of them each task has, shape `(num_tasks,)`.
    """
    from scipy.stats import hypergeom

    tested = (tests[:, 1] > 0) & (tests[:, 1] < tests[:, 3])
    tests, task_of = tests[tested], np.repeat(np.arange(len(num_tests)), num_tests)[tested]
    p_values = np.full(len(num_tests), np.nan)
    if not len(tests):
        return p_values
    task_ids, starts, counts = np.unique(task_of, return_index=True, return_counts=True)
    hits, support, predicted, total = tests.T
    chances = hypergeom.sf(hits - 1, total, support, predicted)
    smallest = np.minimum(counts * np.minimum.reduceat(chances, starts), 1)
    mean_support = np.add.reduceat(support, starts) / counts
    few = np.flatnonzero((counts > 1) & (mean_support < FEW))
    smallest[few] = np.minimum(2 * np.minimum(smallest[few], chances_of_sums(tests, starts[few], counts[few])), 1)
    p_values[task_ids] = smallest
    return p_values


def chances_of_sums(tests: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns for each task an upper bound on the probability that all its tests together have so many hits by chance.

    That probability is at most the expected number of ways to choose as many hits from those there are: for each class, ways to
    choose j of its samples, j of the chosen ones and a matching of both, multiplied over classes and summed over all j that make
    up the sum; divided by the matchings of as many samples (J. Riordan, An Introduction to Combinatorial Analysis, 1958, chapter
    7). Sets of chosen samples that overlap only make it smaller.

    Args:
        tests: Hits, samples of the class, chosen samples, and all samples, shape `(num_tests, 4)`.
        starts: The first test of each task, shape `(num_tasks,)`.
        counts: How many tests it has, same shape.
    """
    chances, total = np.ones(len(starts)), tests[starts, 3]
    sums = np.array([_sum_runs(column, starts, counts) for column in (tests[:, 0], tests[:, 1] * tests[:, 2])])
    hits, expected = sums[0], sums[1] / np.maximum(total, 1)
    left = np.flatnonzero((hits > expected) & (expected <= MOST_EXPECTED))
    left = left[np.argsort(hits[left], kind="stable")]  # tasks with similar numbers of hits are counted together
    for part in np.array_split(left, -(-len(left) // TASKS_AT_ONCE) or 1):
        if len(part):
            ways = _count_ways(tests, starts[part], counts[part], hits[part])
            matchings = gammaln(total[part] + 1) - gammaln(total[part] - hits[part] + 1)
            matchings -= hits[part] * np.log(total[part])
            with np.errstate(divide="ignore"):  # ways smaller than a float can be
                chances[part] = np.minimum(np.exp(np.log(ways) - matchings), 1)
    return chances


def _count_ways(tests: np.ndarray, starts: np.ndarray, counts: np.ndarray, hits: np.ndarray) -> np.ndarray:
    """Returns the number of ways to make up the hits of each task, divided by total ** hits, shape `(num_tasks,)`."""
    ways = np.zeros((len(starts), int(hits.max()) + 1))
    ways[:, 0] = 1
    for number in range(int(counts.max())):
        own = np.flatnonzero(number < counts)
        _, support, chosen, total = tests[starts[own] + number].T
        before, factor = ways[own], np.ones(len(own))
        after = before.copy()
        for j in range(int(min(np.minimum(support, chosen).max(), ways.shape[1] - 1))):
            factor = factor * (
                (support - j) * (chosen - j) / ((j + 1) * total)
            )  # 0 from the smaller of both numbers on
            after[:, j + 1 :] += before[:, : -(j + 1)] * factor[:, None]
        ways[own] = after
    found: np.ndarray = ways[np.arange(len(ways)), hits]
    return found


def _sum_runs(values: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the sums of neighbours, `counts` of them from `starts` on."""
    sums = np.concatenate([[0], np.cumsum(values)])
    runs: np.ndarray = sums[starts + counts] - sums[starts]
    return runs


def _one_against_all(confusions: np.ndarray) -> np.ndarray:
    """Returns, for each class that may be tested, its hits, its samples, the answers that name it, and all samples, by confusions
    `(num_tasks, num_classes, num_classes)`: shape `(num_tasks, num_tests, 4)`. Both of two classes would give the same p."""
    hits, support, predicted = confusions.diagonal(axis1=1, axis2=2), confusions.sum(axis=2), confusions.sum(axis=1)
    total = np.broadcast_to(support.sum(axis=1, keepdims=True), support.shape)
    tests: np.ndarray = np.stack([hits, support, predicted, total], axis=2)
    return tests[:, 1:] if tests.shape[1] == 2 else tests


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
