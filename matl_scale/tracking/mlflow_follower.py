"""Carries a run's local files to MLflow, as a process of its own beside the training process.

It reads `metrics.jsonl` from where it stopped, so a server that is away costs the training nothing and is caught up
later, in order. Its standard input is a life line: when that closes, the training process has ended, and the status that
it left behind (none, if it was killed) becomes the run's. A killed run repeats the steps after its last checkpoint; MLflow
cannot forget a point, so of a step that it has, it keeps the first record.
"""

import contextlib
import json
import logging
import os
import select
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from matl_scale.files import lock_folder, write_json
from matl_scale.tracking.history import RunHistory
from matl_scale.tracking.local import (
    BALANCE_FILE,
    DRAWS_FILE,
    METRICS_FILE,
    PER_TASK_FILE,
    STATUS_FILE,
    mark_of,
)
from matl_scale.tracking.views import draw_heatmap, latest_table

STATE_FILE = "mlflow.json"
POLL_S = 2.0
RETRY_S = 15.0
GIVE_UP_S = 60.0  # after the training has ended
BATCH_METRICS = 900  # MLflow takes 1,000 at once
KEY_LENGTH = 250


def default_store(runs: Path) -> str:
    """Returns the tracking URI: MLflow's own variable, else a SQLite file in the folder of runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(runs / 'mlflow.db').resolve()}"


def metric_key(name: str) -> str:
    """Returns a name that MLflow accepts: letters, digits and `_-./ :`, at most 250 characters, no path that leads elsewhere."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-./ :") else "_" for c in name)[:KEY_LENGTH]
    return "/".join("_" if part.strip(".") == "" else part for part in plain.split("/"))


class Follower:
    """One run's way to MLflow. `state` says which run it is and how far the copy has come.

    Args:
        folder: The run's folder, with `config.yaml`.
        experiment: Name of the MLflow experiment.
        params: Flat configuration, logged once.
    """

    def __init__(self, folder: Path, experiment: str, params: dict[str, str]) -> None:
        self.folder, self.experiment, self.params = folder, experiment, params
        path = folder / STATE_FILE
        self.state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.uri: str = self.state.get("tracking_uri") or default_store(folder.parent)
        self._client: Any = None
        self._copied_steps: dict[str, set[int]] = {}

    def connect(self) -> None:
        """Opens the store; creates the run, or goes on with the one that this folder had."""
        from mlflow import MlflowClient
        from mlflow.entities import Param, RunTag

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # mlflow sets its own level when it is imported
        client = MlflowClient(tracking_uri=self.uri)
        if "run_id" not in self.state:
            run = client.create_run(self._experiment_id(client), run_name=self.folder.name)
            self.state = {"tracking_uri": self.uri, "run_id": run.info.run_id, "time": 0.0}
            self._save()  # at once: a run has one id, whatever fails after this
        client.update_run(self.state["run_id"], status="RUNNING")
        if not self.state.get("described"):
            params = [Param(metric_key(key), value[:6000]) for key, value in self.params.items()]
            tags = [RunTag("matl_scale.folder", str(self.folder.resolve()))]
            client.log_batch(self.state["run_id"], params=params, tags=tags)
            client.log_artifact(self.state["run_id"], str(self.folder / "config.yaml"))
            self.state["described"] = True
            self._save()
        self._client = client

    def _alone_in_new_store(self) -> contextlib.AbstractContextManager[None]:
        """Holds a lock while a SQLite store may have to be made: two processes that make its tables both fail."""
        if not self.uri.startswith("sqlite:"):
            return contextlib.nullcontext()
        return lock_folder(self.folder.parent, ".mlflow-store.lock", wait=True)

    def _experiment_id(self, client: Any) -> str:
        experiment = client.get_experiment_by_name(self.experiment)
        if experiment is not None:
            return str(experiment.experiment_id)
        local = self.uri.startswith("sqlite:")  # its default would be a folder below the current one
        location = (self.folder.parent / "mlartifacts").resolve().as_uri() if local else None
        return str(client.create_experiment(self.experiment, artifact_location=location))

    def copy_new(self) -> None:
        """Copies every record that MLflow does not have yet, then tables and picture if there was an evaluation."""
        from mlflow.entities import Metric

        if self._client is None:
            with self._alone_in_new_store():
                self.connect()
        records = self._new_records()
        while records:
            batch: list[dict[str, Any]] = []
            metrics: list[Metric] = []
            while records and len(metrics) + len(records[0]) <= BATCH_METRICS:
                batch.append(records.pop(0))
                if self._is_there(batch[-1]):
                    continue
                metrics += [
                    Metric(metric_key(name), value, int(batch[-1]["time"] * 1000), batch[-1]["step"])
                    for name, value in batch[-1].items()
                    if name not in ("step", "time")
                ]
            if metrics:
                self._client.log_batch(self.state["run_id"], metrics=metrics)
            for record in batch:
                self._copied_steps.get(mark_of(record) or "", set()).add(record["step"])
            self.state["time"] = batch[-1]["time"]
            self._save()
        self._copy_tables()

    def _is_there(self, record: dict[str, Any]) -> bool:
        """Returns whether MLflow has this record's step, from before the run was killed and repeated it."""
        mark = mark_of(record)
        if mark is None:
            return False
        if mark not in self._copied_steps:
            history = self._client.get_metric_history(self.state["run_id"], metric_key(mark))
            self._copied_steps[mark] = {metric.step for metric in history}
        return record["step"] in self._copied_steps[mark]

    def _new_records(self) -> list[dict[str, Any]]:
        """Returns the records after the last one copied. A record is known by its time, which outlives a rewritten file."""
        path = self.folder / METRICS_FILE
        if not path.is_file():
            return []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        records = [json.loads(line) for line in lines if line.endswith("\n")]
        return [record for record in records if record["time"] > self.state["time"]]

    def _copy_tables(self) -> None:
        path = self.folder / PER_TASK_FILE
        if not path.is_file() or path.stat().st_mtime_ns == self.state.get("tables"):
            return
        changed = path.stat().st_mtime_ns
        if pq.read_metadata(path).num_rows == 0:  # a resumed run forgot its only evaluation
            return
        run_id = self.state["run_id"]
        self._client.log_artifact(run_id, str(path))
        for name in (DRAWS_FILE, BALANCE_FILE):
            if (self.folder / name).is_file():
                self._client.log_artifact(run_id, str(self.folder / name))
        history = RunHistory(self.folder)
        # the layout and the tag that MLflow's own `log_table` writes; that would append to what is there
        self._client.log_dict(run_id, latest_table(history), "per_task.json")
        self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": "per_task.json", "type": "table"}]))
        picture = self.folder / "per_task.png"
        draw_heatmap(history, picture)
        self._client.log_artifact(run_id, str(picture))
        self.state["tables"] = changed
        self._save()

    def finish(self, status: str) -> None:
        if status == "SCHEDULED":
            self._client.update_run(self.state["run_id"], status=status)  # not over: it has no end time
        else:
            self._client.set_terminated(self.state["run_id"], status=status)

    def _save(self) -> None:
        write_json(self.folder / STATE_FILE, self.state)


def follow(follower: Follower, life_line: int) -> int:
    """Copies until the training process is gone and everything is there. Returns the exit code."""
    retry_at = 0.0
    complained = False
    ended_at: float | None = None
    while True:
        if ended_at is None and select.select([life_line], [], [], POLL_S)[0] and not os.read(life_line, 4096):
            ended_at = time.monotonic()
        if time.monotonic() >= retry_at or ended_at is not None:
            try:
                follower.copy_new()
                complained = False
                if ended_at is not None:
                    follower.finish(read_status(follower.folder))
                    return 0
            except Exception as error:  # whatever a client raises: the local files stay, and it is tried again
                if not complained:
                    reason = str(error).strip().split("\n")[0]
                    print(f"MLflow at {follower.uri} is not available ({reason}); the local files hold everything, "
                          "trying again", file=sys.stderr, flush=True)  # fmt: skip
                complained, retry_at = True, time.monotonic() + RETRY_S
                follower._client = None
        if ended_at is not None:
            if time.monotonic() - ended_at > GIVE_UP_S:
                print(f"MLflow at {follower.uri} is still not available; {follower.folder} holds what it lacks",
                      file=sys.stderr, flush=True)  # fmt: skip
                return 1
            time.sleep(POLL_S)


def read_status(folder: Path) -> str:
    """Returns the status that the training process left; FAILED if it was killed before it could."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads((folder / STATUS_FILE).read_text(encoding="utf-8"))["status"])
    return "FAILED"


def main(arguments: Sequence[str]) -> int:
    """Entry point of the process: the run's folder, the experiment, and the parameters as JSON."""
    logging.getLogger("alembic").setLevel(logging.WARNING)
    folder, experiment, params = arguments
    # the process of an earlier start of this run may still be telling its end
    with lock_folder(Path(folder), ".mlflow.lock", wait=True):
        return follow(Follower(Path(folder), experiment, json.loads(params)), sys.stdin.fileno())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
