"""Histograms of the scores of binary tasks: what fitting a decision needs of a split, however many samples it has.

A bin is a small interval of the log-odds of class 1, its upper bound included: class 1 is decided above a limit. Bins are narrow
around zero (0.005) and wider outside, about as wide as half precision is there. Samples in one bin count as equal.
"""

import numpy as np

from matl_scale.metrics.scores import NUM_BINS, SCORE_LIMIT

NUM_FOLDS = 5

_positions = np.linspace(-1, 1, NUM_BINS + 1) * np.arcsinh(SCORE_LIMIT)
EDGES = np.sinh(_positions)  # the lower bound of each bin, and the upper one of the last
CENTRES = np.sinh((_positions[1:] + _positions[:-1]) / 2)


def _tabulate_bins() -> np.ndarray:
    """Returns the bin of every number in half precision, by its bits; NaN counts as 0."""
    values = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    bins = np.searchsorted(EDGES, np.nan_to_num(values), side="left") - 1
    clipped: np.ndarray = np.clip(bins, 0, NUM_BINS - 1)
    return clipped


_BIN_OF = _tabulate_bins()


def find_bins(scores: np.ndarray) -> np.ndarray:
    """Returns the bin of each score in half precision."""
    bins: np.ndarray = _BIN_OF[np.ascontiguousarray(scores, dtype=np.float16).view(np.uint16)]
    return bins


def count_scores_of(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Returns the number of samples by task, fold, class and bin, shape `(num_tasks, NUM_FOLDS, 2, NUM_BINS)`.

    Labels (0, 1, −1 = none) and scores, in half precision, have shape `(num_samples, num_tasks)`, folds `(num_samples,)`.
    """
    size = NUM_FOLDS * 2 * NUM_BINS
    counts = np.empty((labels.shape[1], size), dtype=np.float32)
    for task, (own, column) in enumerate(zip(labels.T, scores.T, strict=True)):
        labelled = np.flatnonzero(own >= 0)
        cells = (folds[labelled] * 2 + own[labelled]) * NUM_BINS + find_bins(column[labelled])
        counts[task] = np.bincount(cells, minlength=size)
    return counts.reshape(-1, NUM_FOLDS, 2, NUM_BINS)
