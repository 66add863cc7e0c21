"""Confident learning: which labels of one task are likely wrong, from the labels and a network's probabilities alone.

C. G. Northcutt, L. Jiang, I. L. Chuang: Confident Learning: Estimating Uncertainty in Dataset Labels, Journal of Artificial
Intelligence Research 70, 2021, arXiv 1911.00068. The probabilities have to be of samples that the network was not trained on: it
repeats the labels of the others.

Written from the paper. The authors' package, cleanlab, was under the AGPL for years (2.9.0 is under the Apache License), takes
one task without missing labels at a time, and needs pandas and scikit-learn, which a report does without.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class LabelErrors:
    """The labels of one task that are likely wrong, the most likely first."""

    rows: np.ndarray  # their samples, shape `(num_errors,)`
    suggested: np.ndarray  # the class that each of them likely has, same shape
    # the confident joint: how many samples there are of each class that they are labelled with (rows) and that they likely have
    # (columns), shape `(num_classes, num_classes)`
    joint: np.ndarray


def find_label_errors(labels: np.ndarray, probabilities: np.ndarray) -> LabelErrors:
    """Finds the labels that are likely wrong.

    A sample likely has class j if the network gives it at least the probability of j that it gives, on average, to the samples
    that are labelled j: a class of which the network is never sure is judged by a low bar. Where several classes reach theirs,
    the most probable one counts. Labels that differ from that class are ordered by self-confidence, the probability of the class
    that the sample is labelled with; of two classes, that is the order of the normalised margin too.

    Args:
        labels: Class indices, shape `(num_samples,)`; every sample has a label.
        probabilities: Shape `(num_samples, num_classes)`.
    """
    num_samples, num_classes = probabilities.shape
    given = labels.astype(np.int64)
    self_confidence = probabilities[np.arange(num_samples), given]
    reached = probabilities >= class_thresholds(given, self_confidence, num_classes)
    likely = np.where(reached, probabilities, -1).argmax(axis=1)
    counted = reached.any(axis=1)
    joint = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(joint, (given[counted], likely[counted]), 1)
    wrong = np.flatnonzero(counted & (likely != given))
    wrong = wrong[np.argsort(self_confidence[wrong], kind="stable")]
    return LabelErrors(rows=wrong, suggested=likely[wrong], joint=joint)


def class_thresholds(labels: np.ndarray, self_confidence: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the mean probability of each class over the samples that are labelled with it, shape `(num_classes,)`. It is
    infinite for a class that no sample is labelled with, so that nothing reaches it."""
    counts = np.bincount(labels, minlength=num_classes)
    sums = np.bincount(labels, self_confidence, minlength=num_classes)
    thresholds = np.full(num_classes, np.inf)
    np.divide(sums, counts, out=thresholds, where=counts > 0)
    return thresholds
