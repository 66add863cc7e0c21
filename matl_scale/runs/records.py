"""The run's own files: `metrics.jsonl` (one line per record), `per_task.parquet` and `draws.parquet` (long tables).

They are the truth: whatever MLflow shows is a copy of them.
"""

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.growing_table import GrowingTable, names_by_number
from matl_scale.runs.layout import RunFolder
from matl_scale.storage.files import write_atomic, write_text

TRAIN_MARK = "train/lr"  # in every record of training
EVALUATION_MARK = "/tasks_evaluated"  # in every record of an evaluation


class LocalLog:
    """Writes the files of one run folder. Non-finite values are left out of records and null in tables."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # of an earlier start, perhaps on a node whose clock was ahead
        self._last_time = max(
            (record["time"] for record in RecordTail(RunFolder(folder).metrics_file).read_after(0)), default=0.0
        )

    def forget_after(self, step: int) -> None:
        """Drops what a run logged after the step from which it now goes on, so that every step is there once.

        An evaluation that broke off between its record and its table goes too.
        """
        path = RunFolder(self.folder).metrics_file
        if path.is_file():
            complete = self.evaluations()
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            records = ((line, json.loads(line)) for line in lines if line.endswith("\n"))
            kept = [
                line
                for line, record in records
                if record["step"] <= step and all((record["step"], s) in complete for s in splits_of(record))
            ]
            write_text(path, "".join(kept))
        for path in (RunFolder(self.folder).per_task_file, RunFolder(self.folder).draws_file):
            GrowingTable(path).forget_after(step)

    def forget_evaluation(self, step: int, split: str) -> None:
        """Drops the record of an evaluation that is made again."""
        path = RunFolder(self.folder).metrics_file
        if path.is_file():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
            records = ((line, json.loads(line)) for line in lines)
            kept = [line for line, record in records if record["step"] != step or split not in splits_of(record)]
            write_text(path, "".join(kept))

    def evaluations(self) -> set[tuple[int, str]]:
        """Returns step and split of every evaluation that is there completely."""
        path = RunFolder(self.folder).per_task_file
        if not path.is_file():
            return set()
        pairs = pq.read_table(path, columns=["step", "split"]).group_by(["step", "split"]).aggregate([]).to_pylist()
        return {(pair["step"], pair["split"]) for pair in pairs}

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one record: `step`, `time` (seconds since 1970, another for every record), and the finite values."""
        self._last_time = max(round(time.time(), 6), round(self._last_time + 1e-6, 6))
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        line = json.dumps({"step": step, "time": self._last_time, **finite})
        with RunFolder(self.folder).metrics_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def log_per_task(self, step: int, split: str, tasks: Sequence[str], metrics: TaskMetrics) -> None:
        """Adds one evaluation to `per_task.parquet`; an earlier one of the same step and split is replaced.

        Args:
            step: Steps done.
            split: The evaluated split.
            tasks: Task names.
            metrics: Metrics of all tasks.
        """
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
        GrowingTable(RunFolder(self.folder).per_task_file).append(new, step, split)

    def log_draws(self, step: int, tasks: Sequence[str], draws: np.ndarray) -> None:
        """Adds to `draws.parquet` how many slots each task has had so far."""
        names = names_by_number(np.arange(len(tasks)), tasks)
        new = pa.table(
            {"step": np.full(len(tasks), step, dtype=np.int64), "task": names, "draws": draws.astype(np.int64)}
        )
        GrowingTable(RunFolder(self.folder).draws_file).append(new, step)

    def write_balance(self, table: pa.Table) -> None:
        """Writes `balance.parquet`: per task and class, its samples and its share of the draws."""
        write_atomic(
            RunFolder(self.folder).balance_file, lambda partial: pq.write_table(table, partial, compression="zstd")
        )


class RecordTail:
    """Reads a file of records from where it stopped, or from its beginning where it was written anew.

    A record is known by its time, which outlives a rewritten file.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._place, self._inode = path, 0, -1

    def rewind(self) -> None:
        """Begins at the beginning again."""
        self._place = 0

    def read_after(self, last_time: float) -> list[dict[str, Any]]:
        """Returns the complete records that came after a time, in seconds since 1970."""
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._place:
                self._place, self._inode = 0, found.st_ino
            file.seek(self._place)
            lines = [line for line in file.readlines() if line.endswith(b"\n")]
        self._place += sum(map(len, lines))
        records = [json.loads(line) for line in lines]
        return [record for record in records if record["time"] > last_time]


def mark_of(record: Mapping[str, object]) -> str | None:
    """Returns the metric by which a record is known: with its step it occurs once in a run's history."""
    return next((name for name in record if name == TRAIN_MARK or name.endswith(EVALUATION_MARK)), None)


def splits_of(record: Mapping[str, object]) -> list[str]:
    """Returns the split whose evaluation a record holds, if it does."""
    return [name.removesuffix(EVALUATION_MARK) for name in record if name.endswith(EVALUATION_MARK)]
