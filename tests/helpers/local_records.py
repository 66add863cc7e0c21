"""Records of a made-up evaluation of two tasks."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.metrics.names import COUNTED_METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.records import LocalLog

TASKS = ["a", "b"]


def log_evaluation(log: LocalLog, step: int, split: str = "val") -> None:
    """Logs an evaluation, draws and labels; the balanced accuracy of the second task is undefined."""
    values = {name: np.full(2, np.nan) for name in COUNTED_METRICS}
    values |= {"balanced_accuracy": np.array([0.5 + step / 100, np.nan]), "auroc": np.array([0.9, 0.8])}
    values["smallest_class"] = np.array([2.0, 0.0])
    log.log_per_task(step, split, TASKS, TaskMetrics(values=values, counts=np.array([7, 8])))
    log.log_draws(step, TASKS, np.array([step, 2 * step]), np.array([7 * step, 8 * step]))


def as_older_version(path: Path, table: pa.Table) -> None:
    """Writes a table that grows as older versions did: one file, in the place of the folder."""
    shutil.rmtree(path)
    pq.write_table(table, path)
