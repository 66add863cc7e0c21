"""What an evaluation predicts for every sample of a rank."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from matl_scale.data.shards.layout import MISSING
from matl_scale.metrics.counters import class_log_odds
from matl_scale.metrics.scores import MAX_SCORED_CLASSES, SCORE_LIMIT, ScoreLayout


class BatchPredictions(NamedTuple):
    """Predictions for one batch."""

    sample_ids: np.ndarray  # rows of the samples in the label matrix, shape `(batch,)`
    classes: np.ndarray  # the most probable class, −1 where the sample has no label, int16, shape `(batch, num_tasks)`
    log_odds: np.ndarray  # scores, NaN where the sample has no label, float16, shape `(batch, num_scores)`


class PredictionLog:
    """Collects predictions batch by batch; those of the current batch stay on the device.

    `num_classes` are those of each task.
    """

    def __init__(self, num_classes: Sequence[int]) -> None:
        self.layout = ScoreLayout.build(num_classes)
        self.batches: list[BatchPredictions] = []

    def begin(self, labelled: torch.Tensor) -> None:
        """Begins a batch; `labelled` says which sample has a label for which task, shape `(num_samples, num_tasks)`."""
        self._labelled = labelled
        device = labelled.device
        self._classes = torch.zeros(labelled.shape, dtype=torch.int16, device=device)
        self._scores = torch.zeros(len(labelled), self.layout.width, dtype=torch.float16, device=device)
        self._starts, self._counts = (
            torch.from_numpy(each).to(device) for each in (self.layout.starts, self.layout.counts)
        )

    def add(self, task_ids: torch.Tensor, indices: torch.Tensor | None, logits: torch.Tensor) -> None:
        """Adds the predictions of some tasks.

        Args:
            task_ids: The tasks, shape `(num_chosen_tasks,)`.
            indices: Which samples of the batch they are for, shape `(num_chosen,)`; None for all.
            logits: Shape `(num_chosen, num_chosen_tasks, num_classes)`.
        """
        classes = logits.argmax(dim=2)
        scores = class_log_odds(logits.float()).clamp(-SCORE_LIMIT, SCORE_LIMIT).to(torch.float16)
        if logits.shape[2] > MAX_SCORED_CLASSES:
            scores = scores.gather(2, classes[:, :, None])
        if indices is None:
            indices = torch.arange(len(logits), device=logits.device)
        self._classes[indices[:, None], task_ids] = classes.to(torch.int16)
        columns = self._starts[task_ids][:, None] + torch.arange(scores.shape[2], device=logits.device)
        self._scores[indices[:, None], columns.flatten()] = scores.flatten(1)

    def end(self, sample_ids: np.ndarray) -> None:
        """Ends a batch of these samples, shape `(num_samples,)`. What has no label is left out."""
        classes = self._classes.masked_fill(~self._labelled, MISSING).cpu().numpy()
        labelled = self._labelled.repeat_interleave(self._counts, dim=1)
        scores = self._scores.masked_fill(~labelled, torch.nan).cpu().numpy()
        self.batches.append(BatchPredictions(sample_ids, classes, scores))
