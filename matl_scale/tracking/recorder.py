"""What the training loop knows of tracking: records go to the local files, and from there to MLflow.

The tables of an evaluation are written by a thread beside the loop, those of one evaluation before the next one begins.
"""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa

from matl_scale.files import write_json
from matl_scale.tracking.local import STATUS_FILE, LocalLog, TrackConfig, curve_metrics
from matl_scale.tracking.mlflow_process import MlflowProcess

LAST_COPY_S = 120.0


class Recorder:
    """Records one run.

    Args:
        folder: The run's folder, which exists.
        config: The section `track`.
        tasks: Task names.
        enabled: False on all ranks but the first: every method then does nothing.
    """

    def __init__(self, folder: Path, config: TrackConfig, tasks: Sequence[str], enabled: bool) -> None:
        self.tasks, self.enabled = tasks, enabled
        self._curves = config.curve_tasks(tasks)
        self._local = LocalLog(folder)
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._writing: list[Future[None]] = []
        self._status = folder / STATUS_FILE
        if enabled:
            self._status.unlink(missing_ok=True)
        self._mlflow = MlflowProcess(folder, config.experiment) if enabled and config.mlflow else None

    def record(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records run-level metrics after `step` steps."""
        if self.enabled:
            self._local.log(step, metrics)

    def evaluation(
        self,
        step: int,
        split: str,
        summary: Mapping[str, float],
        values: Mapping[str, np.ndarray],
        counts: np.ndarray,
    ) -> None:
        """Records one evaluation: the summaries over tasks as metrics, everything per task as tables.

        Args:
            step: Steps done.
            split: What was evaluated.
            summary: Summaries over tasks.
            values: Per metric, one value per task.
            counts: Labelled samples per task.
        """
        if not self.enabled:
            return
        record = {f"{split}/{name}": value for name, value in summary.items()}
        self._local.log(step, record | curve_metrics(self.tasks, self._curves, values))
        # last: its rows say that all is there
        self._writing.append(self._writer.submit(self._local.log_per_task, step, split, self.tasks, values, counts))

    def draws(self, step: int, counts: np.ndarray) -> None:
        """Records how many slots each task has had, shape `(num_tasks,)`."""
        if self.enabled:
            self._writing.append(self._writer.submit(self._local.log_draws, step, self.tasks, counts.copy()))

    def settle(self) -> None:
        """Waits until all tables are written. Call it before processes are forked: they would inherit a thread's locks.

        Raises:
            OSError: One could not be written.
        """
        while self._writing:
            self._writing.pop(0).result()

    def balance(self, table: pa.Table) -> None:
        """Records with which weights classes are drawn: columns task, class, samples, share."""
        if self.enabled:
            self._local.write_balance(table)

    def close(self, status: str, wait_s: float = LAST_COPY_S) -> None:
        """Ends the run with its true status: FINISHED, FAILED, KILLED, or SCHEDULED if it will go on by itself."""
        try:
            self.settle()
        except BaseException:
            status = "FAILED"
            raise
        finally:
            self._writer.shutdown()
            if self.enabled:
                with contextlib.suppress(OSError):  # a full disk: what the run has to say of it comes first
                    write_json(self._status, {"status": status})
            if self._mlflow is not None:
                print("copying the last records to MLflow", file=sys.stderr, flush=True)
                self._mlflow.close(wait_s)
