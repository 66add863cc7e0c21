"""The samples of a split, as decisions are fitted on them and measured."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from matl_scale.decisions.histogram import NUM_FOLDS
from matl_scale.metrics.scores import ScoreLayout
from matl_scale.tasks import Task


@dataclass(frozen=True, kw_only=True)
class ScoredSamples:
    """Labels and scores of all tasks. `folds` are those of cross-fitting, shape `(num_samples,)`."""

    tasks: Sequence[Task]
    labels: np.ndarray  # class indices, −1 = no label, shape `(num_samples, num_tasks)`
    # scores (`metrics/scores.py`) of the logits as trained, float16, shape `(num_samples, num_scores)`
    log_odds: np.ndarray
    folds: np.ndarray

    @classmethod
    def build(
        cls, tasks: Sequence[Task], keys: np.ndarray, labels: np.ndarray, log_odds: np.ndarray
    ) -> "ScoredSamples":
        """Returns the samples with these keys, in folds that depend on the keys alone."""
        return cls(tasks=tasks, labels=labels, log_odds=log_odds, folds=assign_folds(keys))

    @cached_property
    def layout(self) -> ScoreLayout:
        return ScoreLayout.build([task.num_classes for task in self.tasks])

    def of_task(self, task_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns labels, logits `(num_labelled, num_classes)` and folds of the labelled samples of a task of several classes.

        A network that has diverged gives NaN, which counts as log-odds of 0.
        """
        labelled = np.flatnonzero(self.labels[:, task_id] >= 0)
        scores = np.nan_to_num(self.log_odds[labelled, self.layout.columns_of(task_id)].astype(float))
        return self.labels[labelled, task_id].astype(np.int64), -np.logaddexp(0, -scores), self.folds[labelled]


def assign_folds(keys: np.ndarray) -> np.ndarray:
    """Returns the fold of each sample by its key: equally many in each, in an order without a pattern."""
    mixed = keys.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing (Knuth, vol. 3, 6.4)
    mixed ^= mixed >> np.uint64(32)
    mixed *= np.uint64(0xD6E8FEB86659FD93)
    order = np.lexsort((keys, mixed ^ (mixed >> np.uint64(32))))
    folds = np.empty(len(keys), dtype=np.int64)
    folds[order] = np.arange(len(keys)) % NUM_FOLDS
    return folds
