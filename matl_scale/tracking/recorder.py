"""All that the training loop knows of tracking: it hands records to a `Recorder`.

The recorder writes local files, from which another process copies to MLflow. A thread writes the tables of an evaluation
while training goes on; they are complete before the next evaluation begins.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from matl_scale.errors import InputError, check_at_least
from matl_scale.metrics.names import MAIN_METRIC
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import LocalLog, write_status
from matl_scale.tasks import match_names
from matl_scale.tracking.mlflow_follower import MlflowProcess
from matl_scale.tracking.tags import check_tags

MAX_CURVES = 50
CURVE_METRICS = (MAIN_METRIC, "auroc")
LAST_COPY_S = 120.0


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """What is logged, and where to."""

    mlflow: bool = True
    """Copy the run to MLflow (the store that MLFLOW_TRACKING_URI names, else run.dir/mlflow.db); off = local files only."""
    experiment: str = "matl_scale"
    """MLflow experiment."""
    replace_deleted: bool = False
    """If somebody deletes the run's copy in MLflow, or its experiment: copy everything to a new MLflow run."""
    every: int = 10
    """Steps between records of loss, learning rate and throughput."""
    curves: list[str] | str = field(default_factory=list)
    """Which tasks get metric curves of their own (balanced accuracy and AUROC): a name pattern, or a list of them."""
    tags: dict[str, str] = field(default_factory=dict)
    """Tags that the run's copy in MLflow gets when it is created, to search and group runs by: name → text."""

    def __post_init__(self) -> None:
        check_at_least(1, {"track.every": self.every})
        check_tags(self.tags)

    def curve_tasks(self, names: Sequence[str]) -> list[int]:
        """Returns the indices of the tasks that get curves.

        Raises:
            InputError: A pattern matches nothing, or the patterns choose more tasks than MLflow's pages can show.
        """
        chosen = match_names(names, self.curves, "track.curves")
        if len(chosen) > MAX_CURVES:
            raise InputError(
                f"`track.curves` should choose at most {MAX_CURVES} tasks. Got {len(chosen)}: MLflow slows down with "
                "every metric key. All tasks are in the per-task table and in per_task.parquet."
            )
        return chosen


class Recorder:
    """Records one run, whose folder exists. On all ranks but the first it is not `enabled`, and every method does nothing."""

    def __init__(self, folder: Path, config: TrackConfig, tasks: Sequence[str], enabled: bool) -> None:
        self.tasks, self.enabled = tasks, enabled
        self._curves = config.curve_tasks(tasks)
        self._local = LocalLog(folder)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._writing: list[Future[None]] = []
        self._folder = folder
        if enabled:
            RunFolder(folder).status_file.unlink(missing_ok=True)
        self._mlflow = (
            MlflowProcess(folder, config.experiment, config.replace_deleted) if enabled and config.mlflow else None
        )

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records run-level metrics after `step` steps."""
        if self.enabled:
            self._local.log(step, metrics)

    def record_evaluation(self, step: int, split: str, metrics: TaskMetrics) -> None:
        """Records one evaluation: the summaries over tasks as run-level metrics, all values per task as a table."""
        if not self.enabled:
            return
        record = {f"{split}/{name}": value for name, value in metrics.summary().items()}
        for i in self._curves:
            record |= {f"task/{self.tasks[i]}/{name}": float(metrics.values[name][i]) for name in CURVE_METRICS}
        self._local.log(step, record)
        # after the record: an evaluation is complete once its rows are in the table
        self._writing.append(self._writer.submit(self._local.log_per_task, step, split, self.tasks, metrics))

    def record_draws(self, step: int, draws: np.ndarray, labels: np.ndarray) -> None:
        """Records how many slots each task's route has had, and how many labels the task, both of shape `(num_tasks,)`."""
        if self.enabled:
            arguments = (step, self.tasks, draws.copy(), labels.copy())
            self._writing.append(self._writer.submit(self._local.log_draws, *arguments))

    def wait_for_tables(self) -> None:
        """Waits until all tables are written; raises `OSError` if one could not be.

        Call it before forking: a child would inherit the writing thread's locks.
        """
        while self._writing:
            self._writing.pop(0).result()

    def record_balance(self, table: pa.Table) -> None:
        """Records how often each class is drawn: columns task, class, samples, share."""
        if self.enabled:
            self._local.write_balance(table)

    def finish(self, status: str) -> None:
        """Completes the local files, and leaves the run's final status among them (see `write_status`).

        Raises:
            OSError: A table could not be written.
        """
        try:
            self.wait_for_tables()
        except BaseException:
            status = "FAILED"
            raise
        finally:
            self._writer.shutdown()
            if self.enabled:
                with contextlib.suppress(OSError):  # a full disk: the run's own error message matters more
                    write_status(self._folder, status)

    def close(self, wait_s: float = LAST_COPY_S) -> None:
        """Waits at most `wait_s` until everything is in MLflow. Call it after `finish`."""
        if self._mlflow is not None:
            print("copying the last records to MLflow", file=sys.stderr, flush=True)
            self._mlflow.close(wait_s)
