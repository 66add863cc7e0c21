"""Weights of classes, and what they and other means do to the class frequencies that a network is trained for.

A network that is trained with weighted or balanced classes learns the probabilities of another population, in which class c has
the frequency q_c ∝ (share of the draws) × (weight) instead of π_c. By Bayes' rule, adding log π_c − log q_c to its logits gives
the log-probabilities, up to a constant, for the frequencies π (Saerens, Latinne, Decaestecker, Neural Computation 2002; Elkan,
IJCAI 2001). That is exact for cross-entropy.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassShares:
    """How often the classes of a task occur in training. All have the shape `(num_classes,)`."""

    counts: np.ndarray  # samples of each class in the training split
    drawn: np.ndarray  # the share of the draws that each class gets; with `data.balance` 0, its share of the samples

    @property
    def frequencies(self) -> np.ndarray:
        """The share of the samples of each class."""
        return np.asarray(self.counts / max(self.counts.sum(), 1))


def weigh_by_count(scheme: str, counts: np.ndarray, beta: float) -> np.ndarray:
    """Returns the weights of classes with so many samples each, before they are normalised; a class without samples counts as
    if it had one.

    `effective` is the inverse of the effective number of samples (Cui, Jia, Lin, Song, Belongie, CVPR 2019, arXiv 1901.05555).
    """
    samples = np.maximum(counts, 1).astype(float)
    if scheme == "inverse":
        return np.asarray(1 / samples)
    if scheme == "sqrt":
        return np.asarray(1 / np.sqrt(samples))
    if scheme == "effective":
        return np.asarray((1 - beta) / (1 - beta**samples))
    return np.ones(len(counts))


def normalise_weights(weights: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Returns the weights times a factor that makes their mean over the draws 1, so that the loss keeps its scale."""
    return np.asarray(weights / (weights * drawn).sum())


def trained_frequencies(shares: ClassShares, weights: np.ndarray) -> np.ndarray:
    """Returns the class frequencies that a network is trained for, shape `(num_classes,)`, from weights whose mean is 1."""
    return np.asarray(shares.drawn * weights)


def adjustment_of_logits(shares: ClassShares, weights: np.ndarray, tau: float) -> np.ndarray:
    """Returns what `logit_adjusted` adds to the logits while training: τ · log frequency, shape `(num_classes,)`.

    Menon, Jayasumana, Rawat, Jain, Veit, Kumar, ICLR 2021, arXiv 2007.07314, equation 10, with the frequencies that the network
    is trained for. A class without samples counts as if it had one: its logit should not stay free.
    """
    frequencies = trained_frequencies(shares, weights)
    return np.asarray(tau * np.log(np.where(frequencies > 0, frequencies, 1 / max(shares.counts.sum(), 1))))


def find_prior_offsets(shares: ClassShares, weights: np.ndarray, adjustment: np.ndarray) -> np.ndarray:
    """Returns what to add to the logits for the class frequencies of the training split, shape `(num_classes,)`.

    log (true frequency) − log (frequency trained for), and what was added to the logits while training: that belongs to the
    output too. A class without samples has only the latter.
    """
    present = shares.counts > 0
    ratio = np.ones(len(present))
    np.divide(shares.frequencies, trained_frequencies(shares, weights), out=ratio, where=present)
    return np.asarray(np.log(ratio) + adjustment)


def initial_logits(
    shares: ClassShares, weights: np.ndarray | None, adjustment: np.ndarray | None, smoothing: float
) -> np.ndarray:
    """Returns the logits at which the mean cross-entropy is smallest if all samples have the same, shape `(num_classes,)`, with
    mean 0.

    Args:
        shares: How often the classes occur.
        weights: Factors on the samples of each class, whose mean over the draws is 1; None are 1.
        adjustment: What the loss adds to the logits; None is nothing.
        smoothing: The share of a label that is spread over all classes.
    """
    if not shares.counts.any():
        return np.zeros(len(shares.counts))
    frequencies = trained_frequencies(shares, np.ones(len(shares.counts)) if weights is None else weights)
    # a class without samples counts as if it had one, as in `adjustment_of_logits`
    frequencies = np.where(frequencies > 0, frequencies, 1 / shares.counts.sum())
    logits = np.log((1 - smoothing) * frequencies + smoothing / len(frequencies))
    logits -= 0.0 if adjustment is None else adjustment
    return np.asarray(logits - logits.mean())
