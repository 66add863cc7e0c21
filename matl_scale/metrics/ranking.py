"""Metrics that follow from how scores rank samples, from histograms of the scores of many tasks at once. No torch.

With few samples most bins are empty: what follows is computed from those that are not.
"""

import numpy as np

from matl_scale.metrics.baseline import count_highest_ranked, smallest_p_values
from matl_scale.metrics.task_metrics import ratio

ROWS_AT_ONCE = 64  # whose cumulative histograms are in memory, and in the cache, together


def measure_rankings(histograms: np.ndarray, num_scores: np.ndarray) -> dict[str, np.ndarray]:
    """Returns AUROC and average precision, means over the classes of which they are defined, and the p value against a constant
    answer; NaN where undefined.

    Args:
        histograms: Numbers of samples of other classes and of the class, by score, ascending, shape `(num_rows, 2, num_bins)`: a
            row for each class of each task, or for class 1 alone of two, task by task.
        num_scores: The number of rows of each task, shape `(num_tasks,)`.

    Returns:
        By name, shape `(num_tasks,)`.
    """
    tests = np.empty((len(histograms), 4), dtype=np.int64)
    areas, precisions = np.empty(len(histograms)), np.empty(len(histograms))
    for first in range(0, len(histograms), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        found = take_bins(histograms[rows], choose_bins(histograms[rows].max(axis=1) > 0))
        tests[rows] = count_highest_ranked(found)
        areas[rows], precisions[rows] = auroc(*found.swapaxes(0, 1)), average_precision(*found.swapaxes(0, 1))
    return {
        "auroc": mean_of_runs(areas, num_scores),
        "average_precision": mean_of_runs(precisions, num_scores),
        "baseline_p": smallest_p_values(tests, num_scores),
    }


def choose_bins(occupied: np.ndarray) -> np.ndarray:
    """Returns bins of each row that include its occupied ones: equally many for all rows, ascending, shape `(num_rows, width)`.

    `occupied` is bool, shape `(num_rows, num_bins)`.
    """
    width = int(occupied.sum(axis=1).max(initial=1))
    first = np.argsort(~occupied, axis=1, kind="stable")[:, :width]  # the occupied ones, then the first empty ones
    return np.sort(first, axis=1)


def take_bins(histograms: np.ndarray, bins: np.ndarray) -> np.ndarray:
    """Returns the counts of some bins, `(num_rows, width)`, of histograms `(num_rows, 2, num_bins)`: `(num_rows, 2, width)`."""
    return np.take_along_axis(histograms, bins[:, None], axis=2)


def auroc(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Returns the area under the ROC curve: P(positive above negative) + ½ P(tied) (Mann and Whitney, 1947), shape `(num_rows,)`.

    Both arguments are histograms of scores, ascending, shape `(num_rows, num_bins)`.
    """
    below = np.cumsum(negative, axis=1) - negative
    pairs = negative.sum(axis=1, dtype=float) * positive.sum(axis=1, dtype=float)
    return ratio((positive * (below + negative / 2)).sum(axis=1), pairs)


def average_precision(negative: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Returns the sum of precision × gain in recall over falling thresholds, one per bin, without interpolation, shape
    `(num_rows,)`.

    Both arguments are histograms of scores, ascending, shape `(num_rows, num_bins)`.
    """
    hits, above = (np.cumsum(counts[:, ::-1], axis=1) for counts in (positive, negative + positive))
    gains = hits / np.maximum(above, 1) * positive[:, ::-1]
    return ratio(gains.sum(axis=1), hits[:, -1])


def mean_of_runs(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the means of neighbouring values, `counts` of them each, shape `(num_runs,)`; NaN is left out."""
    starts, known = np.cumsum(counts) - counts, ~np.isnan(values)
    sums = np.add.reduceat(np.where(known, values, 0), starts)
    return ratio(sums, np.add.reduceat(known, starts, dtype=np.int64))
