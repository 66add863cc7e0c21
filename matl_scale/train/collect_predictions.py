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
    accelerator: Accelerator, log: PredictionLog, data: RunData, split: str, step: int, network: str = ""
) -> Predictions | None:
    """Returns what all ranks have predicted for a split, on the first rank; None on the others. All ranks have to call it.

    `step` and `network` are those of `PredictionsInfo`. The log is empty afterwards: for hundreds of tasks and many samples,
    predictions should not be in memory twice.
    """
    batches = gather_predictions(accelerator, log)
    if not accelerator.is_main_process:
        assert not list(batches)
        return None
    ids = data.manifest.sample_ids(split)
    keys = data.reader.keys(ids)
    order = np.argsort(keys, kind="stable")
    row_of = np.argsort(order)
    classes = np.full((len(ids), len(data.tasks)), MISSING, dtype=np.int16)
    scores = np.full((len(ids), log.layout.width), np.nan, dtype=np.float16)
    for batch in batches:
        rows = row_of[np.searchsorted(ids, batch.sample_ids)]
        classes[rows], scores[rows] = batch.classes, batch.log_odds
    labels = data.labels.at(ids[order])
    labels[classes == MISSING] = MISSING  # of samples that could not be read, too
    return Predictions(
        samples=keys[order],
        labels=labels,
        predicted=classes,
        log_odds=scores,
        info=PredictionsInfo(
            split=split,
            step=step,
            tasks=tuple(data.tasks),
            test_set=data.manifest.hash_shards(split),
            network=network,
        ),
    )


def gather_predictions(accelerator: Accelerator, log: PredictionLog) -> Iterator[BatchPredictions]:
    """Yields what all ranks have collected, on the first rank, and takes it out of the log; some batches at a time, so that no
    copy of all is made."""
    if accelerator.num_processes == 1:
        while log.batches:
            yield log.batches.pop(0)
        return
    lengths: list[int] = [0] * accelerator.num_processes
    dist.all_gather_object(lengths, len(log.batches))
    for _ in range(0, max(lengths), BATCHES_AT_ONCE):
        mine, log.batches = log.batches[:BATCHES_AT_ONCE], log.batches[BATCHES_AT_ONCE:]
        received: list[list[BatchPredictions]] | None = None
        if accelerator.is_main_process:
            received = [[]] * accelerator.num_processes
        dist.gather_object(mine, received)
        for batches in received or []:
            yield from batches
