"""Evaluation of all tasks: every labelled sample exactly once over all ranks, each image read and decoded once.

No collective runs inside the loop, so ranks may have different numbers of batches; the counters are added up at the end.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.data.augment import normalise
from matl_scale.data.loader import EvaluationBatches, ImageBatch, build_loader
from matl_scale.data.reader import SampleReader
from matl_scale.data.shards import MISSING
from matl_scale.errors import InputError
from matl_scale.metrics import TaskCounters, TaskMetrics
from matl_scale.models import RoutedModel


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation during training."""

    every: int = 500
    """Steps between evaluations; there is always one at the end. 0 evaluates at the end only."""
    split: str = "val"
    """The split to evaluate."""
    batch_size: int = 256
    """Images per rank that are read at once; each task sees the labelled ones among them."""

    def __post_init__(self) -> None:
        if self.every < 0:
            raise InputError(f"`eval.every` should be at least 0. Got {self.every}.")
        if self.batch_size < 1:
            raise InputError(f"`eval.batch_size` should be at least 1. Got {self.batch_size}.")


@dataclass(frozen=True, kw_only=True)
class EvalData:
    """A split, ready to be evaluated.

    Attributes:
        rows: Its row numbers.
        labels: Label matrix of all samples and the run's tasks, shape `(num_samples, num_tasks)`.
        reader: Of the shard set.
        image_size: Side length in pixels.
        workers: Loader processes per rank.
    """

    rows: np.ndarray
    labels: np.ndarray
    reader: SampleReader
    image_size: int
    workers: int


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, model: RoutedModel, data: EvalData, batch_size: int, channels_last: bool = False
) -> TaskMetrics:
    """Evaluates all tasks; every rank gets the metrics of all samples.

    Args:
        accelerator: Device, precision and ranks.
        model: Not wrapped: no rank waits for another inside the loop.
        data: What to evaluate.
        batch_size: Images read at once.
        channels_last: Memory format of the images.
    """
    was_training = model.training
    model.eval()
    counters = TaskCounters([head.out_features for head in model.heads], accelerator.device)  # type: ignore[misc]
    source = EvaluationBatches(data.rows, data.reader, batch_size, accelerator.process_index, accelerator.num_processes)
    for batch in build_loader(source, data.image_size, data.workers):
        count_batch(accelerator, model, counters, batch, data.labels[batch.rows], channels_last)
    if accelerator.num_processes > 1:
        dist.all_reduce(counters.counts)
        dist.all_reduce(counters.losses)
    model.train(was_training)
    return counters.compute()


def count_batch(
    accelerator: Accelerator,
    model: RoutedModel,
    counters: TaskCounters,
    batch: ImageBatch,
    labels: np.ndarray,
    channels_last: bool,
) -> None:
    """Runs every task on the images of a batch that carry its label, `labels` being `(batch, num_tasks)`."""
    images = normalise(batch.images.to(accelerator.device))
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    targets = torch.from_numpy(labels.astype(np.int64)).to(accelerator.device)
    labelled = labels != MISSING
    for task_id in np.flatnonzero(labelled.any(axis=0)).tolist():
        if labelled[:, task_id].all():
            chosen, chosen_targets = images, targets[:, task_id]
        else:
            places = torch.from_numpy(np.flatnonzero(labelled[:, task_id])).to(accelerator.device)
            chosen, chosen_targets = images[places], targets[places, task_id]
        with accelerator.autocast():
            logits = model(chosen, task_id)
        counters.update(task_id, logits, chosen_targets)
