"""Per-task counters that add up over batches and ranks, and the metrics computed from them.

Everything but the loss is an integer count, so the result does not depend on how samples were spread over ranks. AUROC and
average precision come from histograms of the score (the log-odds of a class) with `NUM_BINS` bins that are narrow
around zero; two samples in one bin count as tied.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from matl_scale.metrics.confusion import measure_confusions
from matl_scale.metrics.names import COUNTED_METRICS
from matl_scale.metrics.ranking import measure_rankings
from matl_scale.metrics.scores import NUM_BINS, SCORE_LIMIT
from matl_scale.metrics.task_metrics import TaskMetrics, ratio

NO_LABEL = -1


class TaskCounters:
    """Counters of all tasks in two flat tensors: `counts` (int64) and `losses` (float64, one sum per task).

    Adding the tensors of several ranks gives the counters of all of them. Batches have to be on the same device.
    """

    def __init__(self, num_classes: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.num_classes = list(num_classes)
        self.num_scores = [1 if count == 2 else count for count in self.num_classes]
        confusion = np.array([count * count for count in self.num_classes])
        histogram = np.array([2 * count * NUM_BINS for count in self.num_scores])
        self._confusion_start = np.concatenate([[0], np.cumsum(confusion)])
        self._histogram_start = self._confusion_start[-1] + np.concatenate([[0], np.cumsum(histogram)])
        self._starts = torch.from_numpy(np.stack([self._confusion_start[:-1], self._histogram_start[:-1]])).to(device)
        self.counts = torch.zeros(int(self._histogram_start[-1]), dtype=torch.int64, device=device)
        self.losses = torch.zeros(len(self.num_classes), dtype=torch.float64, device=device)

    def update(self, task_ids: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Counts one batch of several tasks that have equally many classes.

        Args:
            task_ids: The tasks, shape `(num_tasks,)`.
            logits: Shape `(batch, num_tasks, num_classes)`.
            labels: Class indices, −1 = no label, shape `(batch, num_tasks)`.
        """
        num_classes = logits.shape[2]
        # one row per label that there is, whichever sample and task it belongs to
        samples, columns = torch.nonzero(labels != NO_LABEL, as_tuple=True)
        tasks, labels = task_ids[columns], labels[samples, columns]
        logits = logits[samples, columns].float()
        losses = functional.cross_entropy(logits.double(), labels, reduction="none")
        self.losses.index_add_(0, tasks, losses)
        confusion_start, histogram_start = self._starts[:, tasks]
        self._add(confusion_start + labels * num_classes + logits.argmax(dim=1))
        scores, positive = class_scores(logits, labels)
        score_ids = torch.arange(scores.shape[1], device=logits.device)[None]
        self._add(histogram_start[:, None] + (score_ids * 2 + positive) * NUM_BINS + score_bins(scores))

    def _add(self, cells: torch.Tensor) -> None:
        """Counts each cell once more for every time that it occurs."""
        cells = cells.flatten()
        self.counts.index_add_(0, cells, torch.ones_like(cells))

    def compute(self) -> TaskMetrics:
        """Returns every metric of every task that counts tell, which are `COUNTED_METRICS`; NaN where it is undefined."""
        counts = self.counts.cpu().numpy()
        totals = np.zeros(len(self.num_classes), dtype=np.int64)
        values = {name: np.full(len(totals), np.nan) for name in COUNTED_METRICS}
        for task_ids, confusions in self._confusions(counts):
            support = confusions.sum(axis=2)
            totals[task_ids] = support.sum(axis=1)
            found = measure_confusions(confusions) | {
                "majority_accuracy": ratio(support.max(axis=1), totals[task_ids]),
                "smallest_class": support.min(axis=1),
            }
            for name, column in found.items():
                values[name][task_ids] = column
        values["loss"] = ratio(self.losses.cpu().numpy(), totals)
        rankings = counts[self._histogram_start[0] :].reshape(-1, 2, NUM_BINS)
        values |= measure_rankings(rankings, np.array(self.num_scores))
        return TaskMetrics(values=values, counts=totals)

    def _confusions(self, counts: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields tasks with equally many classes, and their confusions, true class × class with the largest logit, shape
        `(num_tasks, num_classes, num_classes)`."""
        num_classes = np.array(self.num_classes)
        for count in np.unique(num_classes):
            task_ids = np.flatnonzero(num_classes == count)
            cells = self._confusion_start[task_ids][:, None] + np.arange(count**2)
            yield task_ids, counts[cells].reshape(-1, count, count)


def class_scores(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the log-odds of each class and whether it is the true one, both `(batch, num_scores)`.

    A binary task has one score, that of class 1.
    """
    scores = class_log_odds(logits)
    return scores, labels[:, None] if logits.shape[1] == 2 else functional.one_hot(labels, logits.shape[1])


def class_log_odds(logits: torch.Tensor) -> torch.Tensor:
    """Returns the log-odds of each class for logits of shape `(…, num_classes)`; for two classes those of class 1 alone."""
    if logits.shape[-1] == 2:
        return logits[..., 1:] - logits[..., :1]
    log_probabilities = functional.log_softmax(logits.double(), dim=-1)
    return log_probabilities - torch.log(-torch.expm1(log_probabilities))


def score_bins(scores: torch.Tensor) -> torch.Tensor:
    """Maps scores to bins, monotonically; asinh makes bins narrow where scores are dense."""
    limit = float(np.arcsinh(SCORE_LIMIT))
    positions = torch.asinh(scores.nan_to_num(0.0)).clamp(-limit, limit) / limit  # from −1 to 1
    return ((positions + 1) * (NUM_BINS / 2)).long().clamp(0, NUM_BINS - 1)
