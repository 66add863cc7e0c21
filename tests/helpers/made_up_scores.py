"""Scores for made-up predictions."""

from collections.abc import Sequence

import numpy as np

from matl_scale.metrics.scores import ScoreLayout
from matl_scale.tasks import Task


def make_scores(tasks: Sequence[Task], predicted: np.ndarray, confidences: np.ndarray) -> np.ndarray:
    """Returns scores, `(num_samples, num_scores)`, by which each predicted class has the given probability and the other classes
    share the rest; `predicted`, −1 = none, and `confidences` have shape `(num_samples, num_tasks)`."""
    layout = ScoreLayout.build([task.num_classes for task in tasks])
    scores = np.full((len(predicted), layout.width), np.nan, dtype=np.float16)
    for column, task in enumerate(tasks):
        rows = np.flatnonzero(predicted[:, column] >= 0)
        classes, confidence = predicted[rows, column], confidences[rows, column].astype(float)
        others = (1 - confidence) / (task.num_classes - 1)
        probabilities = np.repeat(others[:, None], task.num_classes, axis=1)
        probabilities[np.arange(len(rows)), classes] = confidence
        log_odds = np.log(probabilities) - np.log1p(-probabilities)
        scores[rows, layout.columns_of(column)] = log_odds[:, 1:] if task.num_classes == 2 else log_odds
    return scores
