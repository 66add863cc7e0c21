"""Samples with scores whose best thresholds are known."""

import numpy as np

from matl_scale.decisions.samples import ScoredSamples
from matl_scale.tasks import Task


def binary_samples(
    *,
    num_tasks: int,
    num_samples: int,
    rate: float,
    seed: int,
    separation: float = 2.0,
    spoil: tuple[float, float] = (1.0, 0.0),
    exact: bool = False,
) -> ScoredSamples:
    """Returns tasks whose scores are the true log-odds, scaled and shifted by `spoil`: both classes are normal, `separation`
    standard deviations apart, so that the best balanced accuracy is Φ(separation / 2). `exact` gives every task the same number
    of samples of class 1."""
    rng = np.random.default_rng(seed)
    if exact:
        labels = np.zeros((num_samples, num_tasks), dtype=np.int16)
        for column in labels.T:
            column[rng.choice(num_samples, round(rate * num_samples), replace=False)] = 1
    else:
        labels = (rng.random((num_samples, num_tasks)) < rate).astype(np.int16)
    features = rng.normal(size=labels.shape) + separation * labels
    log_odds = np.log(rate / (1 - rate)) + separation * features - separation**2 / 2
    tasks = [Task(name=f"task_{i}", classes=("no", "yes")) for i in range(num_tasks)]
    scores = (spoil[0] * log_odds + spoil[1]).clip(-60, 60).astype(np.float16)
    return ScoredSamples.build(tasks, np.arange(num_samples), labels, scores)


def scores_of_classes(logits: np.ndarray) -> np.ndarray:
    """Returns the log-odds of each class, float16, for logits `(num_samples, num_classes)`."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    log_odds = log_p - np.log(-np.expm1(np.minimum(log_p, -1e-15)))
    scores: np.ndarray = log_odds.clip(-60, 60).astype(np.float16)
    return scores
