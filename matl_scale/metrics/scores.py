"""Scores: what is kept of a network's answer for one sample, so that decisions can be made from it later. No torch.

A score is the log-odds of a class, log p/(1 − p). A task with two classes has one, that of class 1. Up to `MAX_SCORED_CLASSES`
classes have one score each; a task with more has a single one, that of the class that was predicted. The scores of all tasks are
the columns of one matrix, task by task.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

MAX_SCORED_CLASSES = 256
SCORE_LIMIT = 60.0  # log-odds beyond it are not told apart
NUM_BINS = 2048  # of histograms of scores: of equal width in asinh(score), which makes them narrow around zero


def count_scores(num_classes: int) -> int:
    """Returns the number of scores of a task."""
    return num_classes if 2 < num_classes <= MAX_SCORED_CLASSES else 1


@dataclass(frozen=True)
class ScoreLayout:
    """Which columns of a matrix of scores belong to which task."""

    num_classes: tuple[int, ...]  # of each task

    @classmethod
    def build(cls, num_classes: Sequence[int]) -> "ScoreLayout":
        return cls(tuple(num_classes))

    @cached_property
    def counts(self) -> np.ndarray:
        """The number of scores of each task, shape `(num_tasks,)`."""
        return np.array([count_scores(count) for count in self.num_classes], dtype=np.int64)

    @cached_property
    def starts(self) -> np.ndarray:
        """The first column of each task, shape `(num_tasks,)`."""
        starts: np.ndarray = np.cumsum(self.counts) - self.counts
        return starts

    @property
    def width(self) -> int:
        """The number of columns."""
        return int(self.counts.sum())

    def columns_of(self, task_id: int) -> slice:
        """Returns the columns of a task."""
        start = int(self.starts[task_id])
        return slice(start, start + int(self.counts[task_id]))


def find_confidences(scores: np.ndarray, predicted: np.ndarray, layout: ScoreLayout) -> np.ndarray:
    """Returns the probability of the predicted class by the scores, float32, NaN where nothing is predicted.

    `scores` have shape `(num_samples, layout.width)`, `predicted` are class indices, −1 = none, shape `(num_samples, num_tasks)`.
    """
    offsets = np.where((layout.counts > 1)[None], np.maximum(predicted, 0), 0)
    of_predicted = np.take_along_axis(scores, layout.starts[None] + offsets, axis=1).astype(np.float32)
    is_class_0 = (np.array(layout.num_classes) == 2)[None] & (
        predicted == 0
    )  # its log-odds are those of class 1, negated
    log_odds = np.where(is_class_0, -of_predicted, of_predicted)
    confidences: np.ndarray = np.where(predicted < 0, np.nan, expit(log_odds))
    return confidences.astype(np.float32)
