"""Thresholds of binary tasks for an aim.

What a threshold brings is estimated from the samples, and from the calibrated probabilities as if `PSEUDO_SAMPLES` further
samples of each class were spread as these say. With many samples of a class the samples decide; with three of them the
probabilities do, for which every aim has a threshold of its own: ½ for accuracy, the frequency of class 1 for balanced accuracy,
half the best F1 for F1 (Lipton, Elkan, Naryanaswamy, *Optimal Thresholding of Classifiers to Maximize F1 Measure*, ECML 2014).
"""

from dataclasses import dataclass

import numpy as np

from matl_scale.decisions.aim import Aim

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


def choose_thresholds(aim: Aim, seen: Above, expected: Above) -> tuple[np.ndarray, np.ndarray]:
    """Returns the best threshold of each task as its index, and the value of the aim's metric that it is estimated to have.

    Args:
        aim: What the threshold should be best at.
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
        index = middle_of_best(values)
        return index, np.take_along_axis(held, index[:, None], axis=1)[:, 0]
    if aim.metric == "balanced_accuracy":
        values = (recall + 1 - fall_out) / 2
    elif aim.metric == "f1":
        # without a sample of class 1, as in a part of the samples, there are as many as the probabilities say
        positives = np.where(seen.positives > 0, seen.positives, expected.positives)
        values = 2 * recall * positives / (recall * positives + false + positives)
    else:
        values = (recall * seen.positives + seen.negatives - false) / (seen.positives + seen.negatives)
    index = middle_of_best(values)
    return index, np.take_along_axis(values, index[:, None], axis=1)[:, 0]


def blend(counted: np.ndarray, total: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Returns the share `counted / total` after `PSEUDO_SAMPLES` further samples with the expected rate."""
    share: np.ndarray = (counted + PSEUDO_SAMPLES * rate) / (total + PSEUDO_SAMPLES)
    return share


def middle_of_best(values: np.ndarray) -> np.ndarray:
    """Returns the index of the largest value of each row; of equal neighbours that of the middle one, for the largest margin."""
    first = values.argmax(axis=1)
    columns = np.arange(values.shape[1])[None]
    best = np.take_along_axis(values, first[:, None], axis=1)
    ended = (values < best - 1e-12) & (columns > first[:, None])
    after = np.where(ended.any(axis=1), ended.argmax(axis=1), values.shape[1])
    middle: np.ndarray = (first + after - 1) // 2
    return middle
