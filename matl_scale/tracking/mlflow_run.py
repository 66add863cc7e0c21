"""A run's copy in MLflow: records, tables, descriptions, its final status and its best network.

Every step is copied once and in order. A killed run repeats the steps after its last checkpoint, and MLflow cannot delete a
point: of a step that was copied before, MLflow keeps the first record.
"""

import contextlib
import json
import logging
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matl_scale.errors import Problem
from matl_scale.runs.about import read_about
from matl_scale.runs.growing_table import GrowingTable, write_part
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import RecordTail, identifying_metric, read_records, splits_of
from matl_scale.storage.files import file_sha256, write_json
from matl_scale.storage.locks import lock_folder
from matl_scale.tracking import mlflow_views as views
from matl_scale.tracking.deletion import find_deletion, is_deleted, may_be_deletion
from matl_scale.tracking.metric_keys import MetricKeys, keys_of_earlier_version
from matl_scale.tracking.mlflow_model import find_best, log_best_model
from matl_scale.tracking.mlflow_store import default_store, is_sqlite, read_copy, without_password
from matl_scale.tracking.tags import read_tags

BATCH_METRICS = 900  # MLflow takes 1,000 at once
VALUE_LENGTH = 6000
TABLES_EVERY_S = 30.0
# without it the UI opens the experiment with its pages for language models
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def shorten_value(value: str) -> str:
    """Returns a parameter's value, cut to what MLflow accepts: `routing.routes` may name thousands of tasks."""
    return value if len(value) <= VALUE_LENGTH else value[: VALUE_LENGTH - 1] + "…"


def open_client(uri: str) -> Any:
    """Returns MLflow's client of a store."""
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)  # mlflow sets its own level when it is imported
    return MlflowClient(tracking_uri=uri)


class MlflowRun:
    """Copies one run to MLflow. `state`, kept in `mlflow.json`, holds the id of the MLflow run and how far the copy is.

    `uri` is the address of the store, by default that of the last copy, or else the default store. In a store that the run was
    not copied to before, a new MLflow run is created; with `replace_deleted`, also in place of one that somebody deleted.
    """

    def __init__(
        self,
        folder: Path,
        experiment: str,
        uri: str | None = None,
        open_client: Callable[[str], Any] = open_client,
        *,
        replace_deleted: bool = False,
    ) -> None:
        self.folder, self.files, self.experiment = folder, RunFolder(folder), experiment
        self.state = read_copy(folder)
        if uri is not None and uri != self.state.get("tracking_uri"):
            others = self.state.pop("others", {})
            if "run_id" in self.state:
                others[self.state["tracking_uri"]] = self.state
            self.state = {**others.pop(uri, {}), "others": others}
        self.uri: str = uri or self.state.get("tracking_uri") or default_store(folder.parent)
        self.deletion: Problem | None = None  # what somebody deleted, if the last attempt failed for that
        self._replaces_deleted = replace_deleted
        self._open_client = open_client
        self._client: Any = None  # None: not connected
        self._tail = RecordTail(self.files.metrics_file)
        self._keys = MetricKeys(self._read_keys())
        self._copied_steps: dict[str, set[int]] = {}
        self._tables_at = -math.inf

    def _read_keys(self) -> dict[str, str]:
        """Returns the keys that the copy's metrics have so far, by groups; the state keeps those that are added."""
        if "keys" not in self.state:
            copied = (record for record in read_records(self.folder) if record["time"] <= self.state.get("time", 0.0))
            self.state["keys"] = keys_of_earlier_version(name for record in copied for name in record)
        keys: dict[str, str] = self.state["keys"]
        return keys

    def connect(self) -> None:
        """Opens the store; creates the MLflow run, or continues the one that this folder has."""
        client = self._open_client(self.uri)
        if self._replaces_deleted and find_deletion(client, self.uri, self.state, self.experiment):
            self._start_over()
        if "run_id" not in self.state:
            tags = read_tags(self.folder)
            run = client.create_run(self._experiment_id(client), run_name=self.folder.name, tags=tags)
            ids = {"experiment_id": run.info.experiment_id, "run_id": run.info.run_id}
            self.state |= {"tracking_uri": self.uri, **ids, "time": 0.0}
            self._save()  # at once: whatever fails after this, the run keeps this id
        client.update_run(self.state["run_id"], status="RUNNING")
        self._client, self.deletion = client, None

    def _start_over(self) -> None:
        """Forgets the copy that was deleted, except for its ids, and how far it was."""
        replaced = [*self.state.get("replaced", []), *([self.state["run_id"]] if "run_id" in self.state else [])]
        kept: dict[str, Any] = {name: self.state[name] for name in ("keys", "others") if name in self.state}
        self.state, self._tables_at = kept | {"replaced": replaced}, -math.inf

    def diagnose(self, error: Exception) -> Problem | None:
        """Returns what somebody deleted, if a client's error comes from that, and how to restore it; else None."""
        self.deletion = None
        if may_be_deletion(error):
            with contextlib.suppress(Exception):  # the store may be away by now
                self.deletion = find_deletion(self._open_client(self.uri), self.uri, self.state, self.experiment)
        return self.deletion

    def disconnect(self) -> None:
        """Drops the connection after an error. What the store has received is asked for again."""
        self._client = None
        self._copied_steps.clear()
        self._tail.rewind()

    def _describe(self) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag
        from mlflow.utils.validation import MAX_PARAMS_TAGS_PER_BATCH

        about, run_id = read_about(self.folder), self.state["run_id"]
        fixed = self._client.get_run(run_id).data.params  # MLflow refuses another value
        params = [
            Param(key, shorten_value(value)) for key, value in about.get("params", {}).items() if key not in fixed
        ]
        texts = {"matl_scale.folder": str(self.folder.resolve())} | views.environment_tags(about.get("environment", {}))
        self._client.log_batch(run_id, tags=[RunTag(key, value) for key, value in texts.items()])
        for first in range(0, len(params), MAX_PARAMS_TAGS_PER_BATCH):
            self._client.log_batch(run_id, params=params[first : first + MAX_PARAMS_TAGS_PER_BATCH])
        if "data" in about:
            tag = InputTag("mlflow.data.context", "training")
            dataset = Dataset(**views.dataset_fields(about["data"]))
            self._client.log_inputs(run_id, [DatasetInput(dataset, [tag])])
        self._log_files(*self._descriptions)

    @property
    def _descriptions(self) -> tuple[Path, ...]:
        """The files that a run writes when it starts, and again when it is resumed."""
        return self.files.config_file, self.files.about_file, self.files.routes_file

    def _alone_in_new_store(self) -> contextlib.AbstractContextManager[None]:
        """Locks a SQLite store that may not exist yet: when two processes create its tables at once, both fail."""
        if not is_sqlite(self.uri):
            return contextlib.nullcontext()
        return lock_folder(self.folder.parent, ".mlflow-store.lock", wait=True)

    def _experiment_id(self, client: Any) -> str:
        """Returns the id of the run's experiment, which is created if need be. One that was deleted keeps its name: a new run
        that replaces a deleted one goes to `NAME 2` and so on."""
        name, number = self.experiment, 1
        while (experiment := client.get_experiment_by_name(name)) is not None:
            if not (self._replaces_deleted and is_deleted(experiment)):
                return str(experiment.experiment_id)
            number += 1
            name = f"{self.experiment} {number}"
        local = is_sqlite(self.uri)  # MLflow's default is a folder below the current one
        location = (self.folder.parent / "mlartifacts").resolve().as_uri() if local else None
        return str(client.create_experiment(name, artifact_location=location, tags=EXPERIMENT_TAGS))

    def copy_new(self, everything: bool = False) -> None:
        """Copies every record that MLflow lacks, then the tables and the picture if there was an evaluation.

        The tables are copied at most once in `TABLES_EVERY_S` seconds; with `everything`, always.
        """
        if self._client is None:
            with self._alone_in_new_store():
                self.connect()
        records = self._tail.read_after(self.state["time"])
        while records:
            self._copy_batch(records)
        content = {path.name: file_sha256(path) for path in self._descriptions if path.is_file()}
        if self.state.get("described") != content:  # after the metrics: they must not wait for the store of artifacts
            self._describe()
            self.state["described"] = content
            self._save()
        if everything or time.monotonic() - self._tables_at >= TABLES_EVERY_S:
            self._copy_tables()

    def _copy_batch(self, records: list[dict[str, Any]]) -> None:
        """Copies the first records, as many as fit into one call, and removes them from the list."""
        from mlflow.entities import Metric

        batch: list[dict[str, Any]] = []
        metrics: list[Metric] = []
        while records and len(metrics) + len(records[0]) <= BATCH_METRICS:
            batch.append(records.pop(0))
            if self._is_copied(batch[-1]):
                continue
            metrics += [
                Metric(self._keys[name], value, int(batch[-1]["time"] * 1000), batch[-1]["step"])
                for name, value in batch[-1].items()
                if name not in ("step", "time")
            ]
        if metrics:
            self._client.log_batch(self.state["run_id"], metrics=metrics)
        for record in batch:
            self._copied_steps.get(identifying_metric(record) or "", set()).add(record["step"])
        self.state["time"] = batch[-1]["time"]
        self._save()

    def _is_copied(self, record: dict[str, Any]) -> bool:
        """Returns whether MLflow has the step of a record, and of an evaluation the same values.

        It may: a killed run repeats steps, and the store's reply to an earlier batch may have been lost. An evaluation is
        recorded again when decisions or labels have changed.
        """
        metric = identifying_metric(record)
        if metric is None:
            return False
        if metric not in self._copied_steps:
            history = self._client.get_metric_history(self.state["run_id"], self._keys[metric])
            self._copied_steps[metric] = {point.step for point in history}
        if record["step"] not in self._copied_steps[metric]:
            return False
        return not splits_of(record) or all(
            self._has_value(name, record["step"], value)
            for name, value in record.items()
            if name not in ("step", "time")
        )

    def _has_value(self, name: str, step: int, value: float) -> bool:
        """Returns whether the newest value that MLflow has of a metric at a step is this one."""
        history = self._client.get_metric_history(self.state["run_id"], self._keys[name])
        points = [point for point in history if point.step == step]
        newest = max(points, key=lambda point: point.timestamp).value if points else None
        return newest is not None and (newest == value or (math.isnan(newest) and math.isnan(value)))

    def _copy_tables(self) -> None:
        self._tables_at = time.monotonic()
        files, table = self.files, GrowingTable(self.files.per_task_file)
        if not table.exists() or table.last_change() == self.state.get("tables"):
            return
        changed = table.last_change()
        if not table.evaluations():  # a resumed run dropped its only evaluation
            return
        history, run_id = RunHistory(self.folder), self.state["run_id"]
        self._log_tables(files.per_task_file, files.draws_file)
        self._log_files(files.balance_file)
        # written as MLflow's `log_table` would, which appends to the earlier table instead of replacing it
        self._client.log_dict(run_id, views.latest_table(history), "per_task.json")
        self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": "per_task.json", "type": "table"}]))
        views.draw_heatmap(history, files.per_task_picture)
        self._log_files(files.per_task_picture)
        for key, text in {**views.run_tags(history), "mlflow.note.content": views.write_description(history)}.items():
            self._client.set_tag(run_id, self._keys[key], text)
        self.state["tables"] = changed
        self._save()

    def _log_tables(self, *paths: Path) -> None:
        """Copies tables that grow, each as one file: a store keeps the files of rows that are dropped."""
        with tempfile.TemporaryDirectory() as folder:
            for path in filter(Path.exists, paths):
                whole = Path(folder) / path.name
                write_part(GrowingTable(path).read(), whole)
                self._log_files(whole)

    def _log_files(self, *paths: Path) -> None:
        for path in filter(Path.is_file, paths):
            self._client.log_artifact(self.state["run_id"], str(path))

    def finish(self, status: str) -> None:
        """Sets the run's final status, and logs the best network of a finished run as its model."""
        if status == "SCHEDULED":
            self._client.update_run(self.state["run_id"], status=status)  # the run is resumed later: no end time
            return
        self._client.set_terminated(self.state["run_id"], status=status)
        best = find_best(self.folder)
        if status == "FINISHED" and best is not None:
            log_best_model(self.uri, best, self.state, self._save)

    def try_to_set_status(self, status: str) -> None:
        """Sets the final status, if the store can be reached, of a run whose copy is incomplete."""
        with contextlib.suppress(Exception):  # whatever a client raises
            if self._client is None:
                self.connect()
            self._client.set_terminated(self.state["run_id"], status=status)

    @property
    def store(self) -> str:
        """The address of the store without its password."""
        return without_password(self.uri)

    def _save(self) -> None:
        write_json(self.files.mlflow_file, self.state)
