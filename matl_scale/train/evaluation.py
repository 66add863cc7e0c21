"""Evaluation of all tasks: every labelled sample exactly once over all ranks, each image read and decoded once.

No collective runs inside the loop, so ranks may have different numbers of batches; the counters are added up at the end.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.automatic import Auto
from matl_scale.data.images.fit import CROP, Fit
from matl_scale.data.loading.damage import DamageLog
from matl_scale.data.loading.loader import EvaluationBatches, ImageBatch, build_loader
from matl_scale.data.shards.labels import Labels
from matl_scale.data.shards.layout import MISSING
from matl_scale.data.shards.reader import Damage, SampleReader
from matl_scale.errors import check_at_least
from matl_scale.metrics.counters import TaskCounters
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.models.network import RoutedModel
from matl_scale.models.predictor import Predictor
from matl_scale.models.routing_config import Execution
from matl_scale.train.health.share_damage import share_damage
from matl_scale.train.prediction_log import PredictionLog


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Evaluation during training."""

    every: int | Auto = "auto"
    """Steps between evaluations; there is always one at the end. 0 evaluates at the end only, `auto` after each fifth of the
    run."""
    split: str = "val"
    """The split to evaluate."""
    batch_size: int = 256
    """Images per rank and batch; each route sees those with a label for one of its tasks."""
    task_chunk: int = 64
    """Number of routes whose sub-networks stay in memory for a whole evaluation, each about sigma² of the trunk; those of the
    other routes are gathered again for every batch."""
    predictions: bool = True
    """Keep what the last evaluation predicted for every sample (predictions-SPLIT.parquet, some 2 bytes per label): reports
    compare runs by it."""
    min_count: int = 0
    """Means and other summaries over tasks, and the choice of the best network, are over the tasks with at least so many samples
    of each class in the split: of three positive samples, one more or less changes a recall by a third. All tasks are listed."""

    def __post_init__(self) -> None:
        check_at_least(0, {"eval.every": self.every, "eval.min_count": self.min_count})
        check_at_least(1, {"eval.batch_size": self.batch_size, "eval.task_chunk": self.task_chunk})


@dataclass(frozen=True, kw_only=True)
class EvalData:
    """A split, ready to be evaluated."""

    sample_ids: np.ndarray  # its samples
    labels: Labels  # of all samples, for the run's tasks
    reader: SampleReader  # reads the images of the shard set
    image_size: int  # side length in pixels
    workers: int  # loader processes per rank
    damage: DamageLog  # log of samples that cannot be read
    fit: Fit = CROP  # how images of another shape become squares of that size


class Evaluator:
    """Evaluates all tasks of a network; every rank gets the metrics of all samples.

    The network is not wrapped: no rank waits for another inside the loop. `route_chunk` sub-networks stay in memory. The run's
    `folder` gets the list of damaged samples; None keeps no list. `min_count` is `eval.min_count`.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: RoutedModel,
        data: EvalData,
        *,
        batch_size: int = 256,
        route_chunk: int = 64,
        execution: Execution = "subnetwork",
        channels_last: bool = False,
        folder: Path | None = None,
        min_count: int = 0,
    ) -> None:
        self.accelerator, self.model, self.data, self.folder = accelerator, model, data, folder
        self.batch_size, self.channels_last, self.min_count = batch_size, channels_last, min_count
        self.predictor = Predictor(model, execution, route_chunk)

    def __call__(self) -> TaskMetrics:
        """Evaluates the weights as they are now."""
        metrics = self.run(lambda: True)
        assert metrics is not None
        return metrics

    def run(self, keep_on: Callable[[], bool], predictions: PredictionLog | None = None) -> TaskMetrics | None:
        """Evaluates the weights as they are now.

        Args:
            keep_on: Called before each batch; the evaluation ends without a result, on all ranks, if it says no on any.
            predictions: Gets the predictions for this rank's samples.
        """
        was_training = self.model.training
        self.model.eval()
        self.predictor.start()
        counters = TaskCounters(self.model.num_classes, self.accelerator.device)
        damage, broken_off = list[Damage](), torch.zeros(1, device=self.accelerator.device)
        source = EvaluationBatches(
            self.data.sample_ids,
            self.data.reader,
            self.batch_size,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        with self.accelerator.autocast():
            pin = self.accelerator.device.type == "cuda"
            for batch in build_loader(source, self.data.image_size, self.data.workers, pin, self.data.fit):
                if not keep_on():
                    broken_off += 1
                    break
                damage += batch.damage
                labels = self.data.labels.at(batch.sample_ids)
                labels[~batch.valid] = MISSING
                self._count(counters, batch, labels, predictions)
        self.predictor.start()
        share_damage(self.accelerator, self.data.damage, damage, self.folder)
        if self.accelerator.num_processes > 1:
            dist.all_reduce(counters.counts)
            dist.all_reduce(counters.losses)
            dist.all_reduce(broken_off)
        self.model.train(was_training)
        return None if broken_off.item() else replace(counters.compute(), min_count=self.min_count)

    def _count(self, counters: TaskCounters, batch: ImageBatch, labels: np.ndarray, log: PredictionLog | None) -> None:
        """Runs every route on the images of a batch that carry a label for it, `labels` being `(batch, num_tasks)`."""
        device = self.accelerator.device
        images = self.model.normalise(batch.images.to(device, non_blocking=True))
        if self.channels_last:
            images = images.to(memory_format=torch.channels_last)
        labelled, indices = labels != MISSING, dict[int, torch.Tensor | None]()
        for route_id, tasks in enumerate(self.model.routes.tasks_of):
            chosen = np.flatnonzero(labelled[:, tasks].any(axis=1))
            if len(chosen):
                indices[route_id] = torch.from_numpy(chosen).to(device) if len(chosen) < len(labels) else None
        targets = torch.from_numpy(labels.astype(np.int64)).to(device)
        if log is not None:
            log.begin(targets != MISSING)
        for route_id, parts in self.predictor.logits(images, indices):
            chosen_images = indices[route_id]
            for task_ids, _, logits in parts:
                own = targets[:, task_ids]
                counters.update(task_ids, logits, own if chosen_images is None else own[chosen_images])
                if log is not None:
                    log.add(task_ids, chosen_images, logits)
        if log is not None:
            log.end(batch.sample_ids)
