"""Decisions of one task of more than two classes."""

from dataclasses import replace

import numpy as np

from matl_scale.decisions.aim import Aim
from matl_scale.decisions.calibration import calibrate_classes
from matl_scale.decisions.calibration_error import expected_calibration_error
from matl_scale.decisions.histogram import NUM_FOLDS
from matl_scale.decisions.rule import DecisionRule

# that one task is fitted on; further samples would cost time and change nothing that can be seen
MAX_SCORES = 1_000_000


def fit_classes(
    labels: np.ndarray, logits: np.ndarray, prior_offsets: np.ndarray, aim: Aim, start: DecisionRule | None = None
) -> DecisionRule:
    """Fits the rule of a task.

    The decision is the most probable class; for balanced accuracy that with the largest ratio of probability to frequency.

    Args:
        labels: Class indices, shape `(num_samples,)`.
        logits: As trained, shape `(num_samples, num_classes)`.
        prior_offsets: Shape `(num_classes,)`.
        aim: What the decision should be best at.
        start: A similar rule to start from.
    """
    chosen = choose_samples(len(labels), max(MAX_SCORES // logits.shape[1], 1))
    labels, logits = labels[chosen], logits[chosen] + prior_offsets
    first = None if start is None else np.concatenate([[start.scale], start.biases])
    scale, *biases = calibrate_classes(logits, labels, first)
    rule = DecisionRule(
        prior_offsets=prior_offsets,
        scale=float(scale),
        biases=np.array(biases),
        decision_offsets=np.zeros(logits.shape[1]),
    )
    if aim.metric != "balanced_accuracy":
        return rule
    # As the calibrated probabilities have them, and a sample more of each class: a class without a sample would be decided for
    # everywhere if its frequency was counted, as that is smaller than any of its probabilities.
    frequencies = rule.probabilities(logits - prior_offsets).mean(axis=0) + 1 / len(labels)
    return replace(rule, decision_offsets=-np.log(frequencies))


def choose_samples(num_samples: int, limit: int) -> slice | np.ndarray:
    """Returns which samples to fit on: all, or `limit` at random. The first ones would not do: they may be of few classes, as
    the samples of a split can be in the order of their classes."""
    if num_samples <= limit:
        return slice(None)
    return np.random.default_rng(0).choice(num_samples, limit, replace=False, shuffle=False)


def measure_classes(
    labels: np.ndarray, logits: np.ndarray, folds: np.ndarray, rules: list[DecisionRule]
) -> tuple[np.ndarray, float, float]:
    """Returns confusion (true × decided), expected calibration error (of the most probable class) and Brier score (the mean of
    Σ (p − y)² over classes). A sample of fold i is treated by rule i."""
    num_classes = logits.shape[1]
    probabilities, decided = np.empty(logits.shape), np.empty(len(labels), dtype=np.int64)
    for fold, rule in enumerate(rules):
        own = folds == fold
        probabilities[own], decided[own] = rule.probabilities(logits[own]), rule.decide(logits[own])
    confusion = np.bincount(labels * num_classes + decided, minlength=num_classes**2)
    confidences, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    ones, right = np.ones((1, len(labels))), (predicted == labels)[None].astype(float)
    error = expected_calibration_error(confidences[None], ones, right)
    of_label = probabilities[np.arange(len(labels)), labels]
    brier = ((probabilities**2).sum(axis=1) - 2 * of_label + 1).mean() if len(labels) else float("nan")
    return confusion.reshape(num_classes, num_classes), float(error[0]), float(brier)


def cross_fit_classes(
    labels: np.ndarray, logits: np.ndarray, folds: np.ndarray, aim: Aim, start: DecisionRule
) -> list[DecisionRule]:
    """Returns a rule for each fold, fitted on the others; the default if these have no sample."""
    rules = []
    for fold in range(NUM_FOLDS):
        rest = folds != fold
        if rest.any():
            rules.append(fit_classes(labels[rest], logits[rest], start.prior_offsets, aim, start))
        else:
            rules.append(DecisionRule.unfitted(start.num_classes, start.prior_offsets.tolist()))
    return rules
