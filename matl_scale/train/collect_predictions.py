"""Brings what the ranks have predicted to the first one."""

from collections.abc import Iterator

import numpy as np
import torch.distributed as dist
from accelerate import Accelerator

from matl_scale.data.shards.layout import MISSING
from matl_scale.runs.predictions import Predictions, PredictionsInfo
from matl_scale.train.prediction_log import BatchPredictions, PredictionLog
from matl_scale.train.run_data import RunData

BATCHES_AT_ONCE = 64  # how many of each rank's batches are sent to the first rank together


def collect_predictions(
    accelerator: Accelerator, log: PredictionLog, data: RunData, split: str, step: int
) -> Predictions | None:
    """Returns what all ranks have predicted for a split, on the first rank; None on the others. All ranks have to call it."""
    batches = list(gather_predictions(accelerator, log))
    if not accelerator.is_main_process:
        return None
    num_tasks, width = len(data.tasks), log.layout.width
    ids = np.concatenate([batch.sample_ids for batch in batches] or [np.zeros(0, dtype=np.int64)])
    classes = np.concatenate([batch.classes for batch in batches] or [np.zeros((0, num_tasks), dtype=np.int16)])
    scores = np.concatenate([batch.log_odds for batch in batches] or [np.zeros((0, width), dtype=np.float16)])
    keys = data.reader.keys(ids)
    order = np.argsort(keys, kind="stable")
    # samples that could not be read count as not labelled
    labels = np.where(classes == MISSING, MISSING, data.labels[ids])
    return Predictions(
        samples=keys[order],
        labels=labels[order],
        predicted=classes[order],
        log_odds=scores[order],
        info=PredictionsInfo(
            split=split, step=step, tasks=tuple(data.tasks), test_set=data.manifest.hash_shards(split)
        ),
    )


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
