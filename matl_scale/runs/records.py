"""What a run records in its folder: `metrics.jsonl` (one JSON line per record), long tables per task, and its final status.

These files are the original; whatever MLflow shows is a copy of them.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.growing_table import GrowingTable, names_by_number
from matl_scale.runs.layout import RunFolder
from matl_scale.storage.files import write_atomic, write_json, write_text

TRAIN_METRIC = "train/lr"  # in every record of training
EVALUATION_METRIC = "/tasks_evaluated"  # behind the split, in every record of an evaluation


class LocalLog:
    """Writes the records of one run. Values that are not finite are left out of `metrics.jsonl` and null in tables."""

    def __init__(self, folder: Path) -> None:
        self.files = RunFolder(folder)
        self._last_time: float | None = None

    def forget_after(self, step: int) -> None:
        """Drops what was recorded after the step at which a run resumes, so that every step is recorded once.

        The record of an evaluation whose rows are missing in the table, because the run broke off in between, is dropped too.
        """
        for path in (self.files.per_task_file, self.files.draws_file):
            GrowingTable(path).forget_after(step)
        complete = self.evaluations()
        self._keep_records(
            lambda record: (
                record["step"] <= step and all((record["step"], split) in complete for split in splits_of(record))
            )
        )

    def forget_evaluation(self, step: int, split: str) -> None:
        """Drops the record of an evaluation that is made again."""
        self._keep_records(lambda record: record["step"] != step or split not in splits_of(record))

    def _keep_records(self, keep: Callable[[Mapping[str, Any]], bool]) -> None:
        path = self.files.metrics_file
        if path.is_file():
            write_text(path, "".join(line for line in complete_lines(path) if keep(json.loads(line))))

    def evaluations(self) -> set[tuple[int, str]]:
        """Returns step and split of every evaluation that was recorded completely."""
        return set(GrowingTable(self.files.per_task_file).evaluations())

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one record: `step`, `time` (seconds since 1970, strictly increasing), and the finite values."""
        if self._last_time is None:  # an earlier start may have run on a node whose clock was ahead
            self._last_time = max((record["time"] for record in read_records(self.files.path)), default=0.0)
        self._last_time = max(round(time.time(), 6), round(self._last_time + 1e-6, 6))
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        line = json.dumps({"step": step, "time": self._last_time, **finite})
        with self.files.metrics_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def log_per_task(self, step: int, split: str, tasks: Sequence[str], metrics: TaskMetrics) -> None:
        """Adds one evaluation to `per_task.parquet`; an earlier one of the same step and split is replaced."""
        values = metrics.values
        num_tasks, num_metrics = len(tasks), len(values)
        num_rows = num_metrics * num_tasks
        new = pa.table(
            {
                "step": np.full(num_rows, step, dtype=np.int64),
                "split": names_by_number(np.zeros(num_rows), [split]),
                "task": names_by_number(np.tile(np.arange(num_tasks), num_metrics), tasks),
                "metric": names_by_number(np.repeat(np.arange(num_metrics), num_tasks), list(values)),
                "value": pa.array(np.concatenate(list(values.values())), pa.float64(), from_pandas=True),
                "count": np.tile(metrics.counts, num_metrics).astype(np.int64),
            }
        )
        GrowingTable(self.files.per_task_file).append(new, step, split)

    def log_draws(self, step: int, tasks: Sequence[str], draws: np.ndarray, labels: np.ndarray) -> None:
        """Adds to `draws.parquet` how many slots each task's route has had so far, and how many labels the task: both of shape
        `(num_tasks,)`."""
        steps = np.full(len(tasks), step, dtype=np.int64)
        names = names_by_number(np.arange(len(tasks)), tasks)
        counts = {"draws": draws.astype(np.int64), "labels": labels.astype(np.int64)}
        new = pa.table({"step": steps, "task": names, **counts})
        GrowingTable(self.files.draws_file).append(new, step)

    def write_balance(self, table: pa.Table) -> None:
        """Writes `balance.parquet`: the samples of each class of each task, and its share of the draws."""
        write_atomic(self.files.balance_file, lambda partial: pq.write_table(table, partial, compression="zstd"))


class RecordTail:
    """Reads `metrics.jsonl` from where it stopped, or from the beginning if the file was replaced.

    Records are told apart by their time, which stays the same in a replaced file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._offset, self._inode = path, 0, -1

    def rewind(self) -> None:
        """Lets the next reading start at the beginning."""
        self._offset = 0

    def read_after(self, last_time: float) -> list[dict[str, Any]]:
        """Returns the complete records that were not read yet and are later than a time, in seconds since 1970."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._offset:
                self._offset, self._inode = 0, found.st_ino
            file.seek(self._offset)
            lines = [line for line in file.readlines() if line.endswith(b"\n")]
        self._offset += sum(map(len, lines))
        records = [json.loads(line) for line in lines]
        return [record for record in records if record["time"] > last_time]


def read_records(folder: Path) -> list[dict[str, Any]]:
    """Returns the complete records of a run; empty if there are none."""
    return [json.loads(line) for line in complete_lines(RunFolder(folder).metrics_file)]


def complete_lines(path: Path) -> list[str]:
    """Returns the lines of a file without one that was not written to its end; empty if there is no file."""
    if not path.is_file():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]


def identifying_metric(record: Mapping[str, object]) -> str | None:
    """Returns a metric of a record that occurs once per step in a run; None if the record has none."""
    return next((name for name in record if name == TRAIN_METRIC or name.endswith(EVALUATION_METRIC)), None)


def splits_of(record: Mapping[str, object]) -> list[str]:
    """Returns the splits whose evaluation a record holds: none, or one."""
    return [name.removesuffix(EVALUATION_METRIC) for name in record if name.endswith(EVALUATION_METRIC)]


def write_status(folder: Path, status: str) -> None:
    """Writes how the run ended: FINISHED, FAILED, KILLED, or SCHEDULED if it will be started again by itself."""
    write_json(RunFolder(folder).status_file, {"status": status})


def read_status(folder: Path) -> str:
    """Returns how a run ended; FAILED if it was killed before it could write that."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads(RunFolder(folder).status_file.read_text(encoding="utf-8"))["status"])
    return "FAILED"
