"""What an evaluation predicts for every sample, collected on each rank and brought to the first one."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.data.shards.layout import MISSING

BATCHES_AT_ONCE = 64  # how many of each rank's batches are sent to the first rank together


class BatchPredictions(NamedTuple):
    """Predictions for one batch."""

    sample_ids: np.ndarray  # rows of the samples in the label matrix, shape `(batch,)`
    classes: np.ndarray  # the most probable class, −1 where the sample has no label, int16, shape `(batch, num_tasks)`
    confidences: np.ndarray  # the probability of that class, NaN where the sample has no label, float16, same shape


class PredictionLog:
    """Collects predictions batch by batch; those of the current batch stay on the device."""

    def __init__(self) -> None:
        self.batches: list[BatchPredictions] = []

    def begin(self, labelled: torch.Tensor) -> None:
        """Begins a batch; `labelled` says which sample has a label for which task, shape `(num_samples, num_tasks)`."""
        self._labelled = labelled
        self._classes = torch.zeros(labelled.shape, dtype=torch.int16, device=labelled.device)
        self._confidences = torch.zeros(labelled.shape, dtype=torch.float16, device=labelled.device)

    def add(self, task_ids: torch.Tensor, indices: torch.Tensor | None, logits: torch.Tensor) -> None:
        """Adds the predictions of some tasks.

        Args:
            task_ids: The tasks, shape `(num_chosen_tasks,)`.
            indices: Which samples of the batch they are for, shape `(num_chosen,)`; None for all.
            logits: Shape `(num_chosen, num_chosen_tasks, num_classes)`.
        """
        classes = logits.argmax(dim=2)
        confidences = logits.float().softmax(dim=2).gather(2, classes[:, :, None])[:, :, 0]
        if indices is None:
            indices = torch.arange(len(logits), device=logits.device)
        self._classes[indices[:, None], task_ids] = classes.to(torch.int16)
        self._confidences[indices[:, None], task_ids] = confidences.to(torch.float16)

    def end(self, sample_ids: np.ndarray) -> None:
        """Ends a batch of these samples, shape `(num_samples,)`. What has no label is left out."""
        classes = self._classes.masked_fill(~self._labelled, MISSING).cpu().numpy()
        confidences = self._confidences.masked_fill(~self._labelled, torch.nan).cpu().numpy()
        self.batches.append(BatchPredictions(sample_ids, classes, confidences))


def gather_predictions(accelerator: Accelerator, log: PredictionLog) -> Iterator[BatchPredictions]:
    """Yields what all ranks have collected, on the first rank; some batches at a time, so that no copy of all is made."""
    if accelerator.num_processes == 1:
        yield from log.batches
        return
    lengths: list[int] = [0] * accelerator.num_processes
    dist.all_gather_object(lengths, len(log.batches))
    for start in range(0, max(lengths), BATCHES_AT_ONCE):
        mine = log.batches[start : start + BATCHES_AT_ONCE]
        received: list[list[BatchPredictions]] | None = None
        if accelerator.is_main_process:
            received = [[]] * accelerator.num_processes
        dist.gather_object(mine, received)
        for batches in received or []:
            yield from batches
