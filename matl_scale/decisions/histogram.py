"""Histograms of the scores of binary tasks: what fitting a decision needs of a split, however many samples it has.

A bin is a small interval of the log-odds of class 1, its upper bound included: class 1 is decided above a limit. Bins are narrow
around zero (0.005) and wider outside, about as wide as half precision is there. Samples in one bin count as equal. A few hundred
samples leave most bins empty; what is fitted is fitted on the others.
"""

from dataclasses import dataclass

import numpy as np

from matl_scale.metrics.ranking import choose_bins
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


@dataclass(frozen=True, kw_only=True)
class FoldHistograms:
    """Samples of binary tasks by fold, class and bin. Of the bins, those are left out that no task needs."""

    bins: np.ndarray  # ascending, with the last of all, shape `(num_tasks, width)`
    counts: np.ndarray  # float32, shape `(num_tasks, NUM_FOLDS, 2, width)`

    def select(self, chosen: np.ndarray) -> "FoldHistograms":
        """Returns those of some tasks, by a bool array."""
        return FoldHistograms(bins=self.bins[chosen], counts=self.counts[chosen])


def count_scores_of(labels: np.ndarray, scores: np.ndarray, folds: np.ndarray) -> FoldHistograms:
    """Counts samples. Labels (0, 1, −1 = none) and scores, in half precision, have shape `(num_samples, num_tasks)`, folds
    `(num_samples,)`."""
    samples, tasks = np.nonzero(labels >= 0)
    found = find_bins(scores[samples, tasks])
    occupied = np.zeros((labels.shape[1], NUM_BINS), dtype=bool)
    occupied[tasks, found] = True
    occupied[:, -1] = True
    bins = choose_bins(occupied)
    num_tasks, width = bins.shape
    column_of = np.zeros((num_tasks, NUM_BINS), dtype=np.int64)
    np.put_along_axis(column_of, bins, np.arange(width)[None], axis=1)
    rows = (tasks * NUM_FOLDS + folds[samples]) * 2 + labels[samples, tasks]
    counts = np.bincount(rows * width + column_of[tasks, found], minlength=num_tasks * NUM_FOLDS * 2 * width)
    return FoldHistograms(bins=bins, counts=counts.astype(np.float32).reshape(num_tasks, NUM_FOLDS, 2, width))
