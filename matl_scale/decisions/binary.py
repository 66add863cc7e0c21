"""Decisions of tasks of two classes, many at once, from histograms of their scores."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from matl_scale.decisions.aim import Aim
from matl_scale.decisions.calibration import calibrate_binary
from matl_scale.decisions.calibration_error import expected_calibration_error
from matl_scale.decisions.histogram import CENTRES, EDGES, NUM_FOLDS, FoldHistograms
from matl_scale.decisions.rule import DecisionRule
from matl_scale.decisions.threshold import choose_thresholds, count_above


@dataclass(frozen=True, kw_only=True)
class BinaryRules:
    """Rules of many binary tasks: calibrated log-odds are `scale * (log-odds + prior_shift) + bias`, and class 1 is decided above
    `limits`, which are log-odds as trained. All have shape `(num_tasks,)`."""

    prior_shift: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    limits: np.ndarray
    reached: np.ndarray  # the value that the aim's metric is estimated to have; NaN where nothing was fitted

    @classmethod
    def unfitted(cls, prior_shift: np.ndarray) -> "BinaryRules":
        """Returns rules that change nothing but the prior: class 1 is decided where it is the more probable one."""
        ones = np.ones(len(prior_shift))
        return cls(
            prior_shift=prior_shift, scale=ones, bias=0 * ones, limits=-prior_shift, reached=np.full(len(ones), np.nan)
        )

    @classmethod
    def of(cls, rules: Sequence[DecisionRule]) -> "BinaryRules":
        """Returns the rules of single tasks together."""
        prior, bias, decision = (
            np.array([getattr(rule, name)[1] - getattr(rule, name)[0] for rule in rules])
            for name in ("prior_offsets", "biases", "decision_offsets")
        )
        scale = np.array([rule.scale for rule in rules])
        return cls(
            prior_shift=prior,
            scale=scale,
            bias=bias,
            limits=-(decision + bias) / scale - prior,
            reached=np.full(len(rules), np.nan),
        )

    def probabilities(self, bins: np.ndarray) -> np.ndarray:
        """Returns the probability of class 1 of some bins of each task, both of shape `(num_tasks, num_bins)`."""
        scores = CENTRES[bins] + self.prior_shift[:, None]
        probabilities: np.ndarray = expit(self.scale[:, None] * scores + self.bias[:, None])
        return probabilities

    def single(self, prior_offsets: Sequence[np.ndarray], notes: Sequence[str]) -> list[DecisionRule]:
        """Returns the rule of each task, with its prior offsets and what is to be said of it."""
        limits = self.scale * (self.limits + self.prior_shift) + self.bias
        biases, decision_offsets = (np.stack([0 * each, each], axis=1) for each in (self.bias, -limits))
        return [
            DecisionRule(prior_offsets=prior, scale=scale, biases=bias, decision_offsets=decision, note=note)
            for prior, scale, bias, decision, note in zip(
                prior_offsets, self.scale.tolist(), biases, decision_offsets, notes, strict=True
            )
        ]


def fit_binary(
    counts: np.ndarray,
    bins: np.ndarray,
    prior_shift: np.ndarray,
    aims: Sequence[Aim],
    start: BinaryRules | None = None,
) -> BinaryRules:
    """Fits the rules of tasks. One without any sample, as a part of few samples leaves it, keeps the default.

    Args:
        counts: Samples by class and bin, shape `(num_tasks, 2, num_bins)`.
        bins: The bins of each task, as in `FoldHistograms`, shape `(num_tasks, num_bins)`.
        prior_shift: What the prior correction adds to the log-odds, shape `(num_tasks,)`.
        aims: Of each task.
        start: Similar rules to start from.
    """
    rules, (fitted,) = BinaryRules.unfitted(prior_shift), np.nonzero(counts.any(axis=(1, 2)))
    if len(fitted):
        first = None if start is None else np.stack([start.scale, start.bias], axis=1)[fitted]
        own_aims = [aims[i] for i in fitted.tolist()]
        found = fit_samples(counts[fitted], bins[fitted], prior_shift[fitted], own_aims, first)
        for name in ("scale", "bias", "limits", "reached"):
            getattr(rules, name)[fitted] = getattr(found, name)
    return rules


def fit_samples(
    counts: np.ndarray, bins: np.ndarray, prior_shift: np.ndarray, aims: Sequence[Aim], start: np.ndarray | None
) -> BinaryRules:
    """Fits the rules of tasks that have samples. `start` are scales and biases, shape `(num_tasks, 2)`."""
    negatives, positives = counts[:, 0].astype(float), counts[:, 1].astype(float)
    scores = CENTRES[bins] + prior_shift[:, None]
    scale, bias = calibrate_binary(scores, negatives, positives, start).T
    probabilities, total = expit(scale[:, None] * scores + bias[:, None]), negatives + positives
    seen, expected = (
        (negatives, positives),
        (total * (1 - probabilities), total * probabilities),
    )
    limits, reached = np.empty(len(counts)), np.empty(len(counts))
    for aim in set(aims):
        chosen = np.array([own == aim for own in aims])
        edge, value = choose_thresholds(
            aim, bins[chosen], *(count_above(below[chosen], above[chosen]) for below, above in (seen, expected))
        )
        limits[chosen], reached[chosen] = EDGES[edge], value
    return BinaryRules(prior_shift=prior_shift, scale=scale, bias=bias, limits=limits, reached=reached)


@dataclass(frozen=True, kw_only=True)
class BinaryMeasures:
    """What rules do to samples; adds up over folds."""

    confusions: np.ndarray  # true × decided, shape `(num_tasks, 2, 2)`
    probabilities: np.ndarray  # of class 1 by bin, shape `(num_tasks, folds × num_bins)`
    counts: np.ndarray  # samples with them, same shape
    positives: np.ndarray  # how many of them are of class 1

    def errors(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns expected calibration error and Brier score of each task."""
        ece = expected_calibration_error(self.probabilities, self.counts, self.positives)
        squared = self.positives * (1 - self.probabilities) ** 2
        squared += (self.counts - self.positives) * self.probabilities**2
        with np.errstate(invalid="ignore"):
            return ece, squared.sum(axis=1) / self.counts.sum(axis=1)


def measure_binary(counts: np.ndarray, bins: np.ndarray, rules: BinaryRules) -> BinaryMeasures:
    """Applies rules to samples, by class and bin: `(num_tasks, 2, num_bins)`; `bins` are as for `fit_binary`."""
    # a limit inside a bin, as a rule has it that was fitted elsewhere, leaves the bin on the side of its centre
    decided = CENTRES[bins] >= rules.limits[:, None]
    yes = (counts * decided[:, None]).sum(axis=2)
    confusions = np.stack([counts.sum(axis=2) - yes, yes], axis=2)
    return BinaryMeasures(
        confusions=confusions.round().astype(np.int64),
        probabilities=rules.probabilities(bins),
        counts=counts.sum(axis=1),
        positives=counts[:, 1],
    )


def cross_fit_binary(
    folds: FoldHistograms, prior_shift: np.ndarray, aims: Sequence[Aim], start: BinaryRules
) -> BinaryMeasures:
    """Measures each fold by rules that were fitted on the others; `start` are the rules of all folds."""
    total, parts = folds.counts.sum(axis=1), []
    for fold in range(NUM_FOLDS):
        held_out = folds.counts[:, fold]
        rules = fit_binary(total - held_out, folds.bins, prior_shift, aims, start)
        parts.append(measure_binary(held_out, folds.bins, rules))
    return BinaryMeasures(
        confusions=np.sum([part.confusions for part in parts], axis=0),
        **{
            name: np.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in ("probabilities", "counts", "positives")
        },
    )
