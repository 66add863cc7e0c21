"""Thresholds of binary tasks for an aim.

What a threshold brings is estimated from the samples, and from the calibrated probabilities as if `PSEUDO_SAMPLES` further
samples of each class were spread as these say. With many samples of a class the samples decide; with three of them the
probabilities do, for which every aim has a threshold of its own: ½ for accuracy, the frequency of class 1 for balanced accuracy,
half the best F1 for F1 (Lipton, Elkan, Naryanaswamy, *Optimal Thresholding of Classifiers to Maximize F1 Measure*, ECML 2014).
"""

from dataclasses import dataclass

import numpy as np

from matl_scale.decisions.aim import Aim
from matl_scale.metrics.scores import NUM_BINS

PSEUDO_SAMPLES = 20.0


@dataclass(frozen=True, kw_only=True)
class Above:
    """Expected numbers of samples above each of several thresholds, shape `(num_tasks, num_thresholds)`, thresholds ascending."""

    hits: np.ndarray  # samples of class 1
    false: np.ndarray  # samples of class 0
    positives: np.ndarray  # all samples of class 1, shape `(num_tasks, 1)`
    negatives: np.ndarray  # all samples of class 0


def count_above(negatives: np.ndarray, positives: np.ndarray) -> Above:
    """Returns the numbers above the lower bound of every bin, and above the last one, by counts `(num_tasks, num_bins)`."""
    hits, false = reversed_sums(positives), reversed_sums(negatives)
    return Above(hits=hits, false=false, positives=hits[:, :1], negatives=false[:, :1])


def reversed_sums(counts: np.ndarray) -> np.ndarray:
    """Returns the sums of each bin and all later ones, and 0 at the end: shape `(num_tasks, num_bins + 1)`."""
    sums = np.zeros((len(counts), counts.shape[1] + 1))
    sums[:, :-1] = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
    return sums


def choose_thresholds(aim: Aim, bins: np.ndarray, seen: Above, expected: Above) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best threshold of each task, as the index of a bin at whose lower bound it lies, or the number of bins where it
    lies above the last one; and the value of the aim's metric that it is estimated to have.

    Args:
        aim: What the threshold should be best at.
        bins: The bins of each task, ascending; those left out have no samples, and are not the last. Shape
            `(num_tasks, num_bins)`.
        seen: Numbers of samples.
        expected: The same by the calibrated probabilities.
    """
    recall = blend(seen.hits, seen.positives, expected.hits / expected.positives)
    fall_out = blend(seen.false, seen.negatives, expected.false / expected.negatives)
    false = fall_out * seen.negatives
    if aim.metric in ("precision", "recall"):
        chosen_expected = np.maximum(expected.hits + expected.false, 1e-12)
        precision = blend(seen.hits, seen.hits + seen.false, expected.hits / chosen_expected)
        held, other = (precision, recall) if aim.metric == "precision" else (recall, precision)
        assert aim.value is not None
        reached = held >= aim.value
        # the nearest where no threshold reaches it; above the last sample nothing is chosen at all
        values = np.where(reached, 1 + other, held - 1)
        values[:, -1] = -2
        return middle_of_best(values, bins, held)
    if aim.metric == "balanced_accuracy":
        values = (recall + 1 - fall_out) / 2
    elif aim.metric == "f1":
        # without a sample of class 1, as in a part of the samples, there are as many as the probabilities say
        positives = np.where(seen.positives > 0, seen.positives, expected.positives)
        values = 2 * recall * positives / (recall * positives + false + positives)
    else:
        values = (recall * seen.positives + seen.negatives - false) / (seen.positives + seen.negatives)
    return middle_of_best(values, bins, values)


def blend(counted: np.ndarray, total: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Returns the share `counted / total` after `PSEUDO_SAMPLES` further samples with the expected rate."""
    share: np.ndarray = (counted + PSEUDO_SAMPLES * rate) / (total + PSEUDO_SAMPLES)
    return share


def middle_of_best(values: np.ndarray, bins: np.ndarray, reported: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the threshold with the largest value of each task, and what is reported of it; of equal neighbours that of the
    middle one, for the largest margin.

    Values, and what is reported, are those of the thresholds below each of some bins and above the last one, shape
    `(num_tasks, num_bins + 1)`. A threshold at a bin that is left out has the values of the next one that is not.
    """
    # the first of the thresholds that share a value
    firsts = np.concatenate([np.zeros((len(bins), 1), dtype=np.int64), bins + 1], axis=1)
    best = values.argmax(axis=1)[:, None]
    ended = values < np.take_along_axis(values, best, axis=1) - 1e-12
    ended &= np.arange(values.shape[1])[None] > best
    end = np.where(ended.any(axis=1), ended.argmax(axis=1), values.shape[1])[:, None]
    after = np.take_along_axis(np.pad(firsts, ((0, 0), (0, 1)), constant_values=NUM_BINS + 1), end, axis=1)
    middle = (np.take_along_axis(firsts, best, axis=1) + after - 1) // 2
    shown = (firsts <= middle).sum(axis=1, keepdims=True) - 1
    return middle[:, 0], np.take_along_axis(reported, shown, axis=1)[:, 0]
