"""A run's copy in MLflow: created once, records in order and once, tables and descriptions as they are, the best network.

A killed run repeats the steps after its last checkpoint; MLflow cannot forget a point, so of a step that it has, it keeps
the first record.
"""

import contextlib
import json
import logging
import math
import os
import re
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from matl_scale.runs.about import read_about
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import RecordTail, mark_of
from matl_scale.storage.files import write_json
from matl_scale.storage.locks import lock_folder
from matl_scale.tracking.mlflow_model import find_best, log_best_model
from matl_scale.tracking.mlflow_views import (
    dataset_fields,
    describe_run,
    draw_heatmap,
    environment_tags,
    latest_table,
    run_tags,
)

BATCH_METRICS = 900  # MLflow takes 1,000 at once
KEY_LENGTH = 250
VALUE_LENGTH = 6000
TABLES_EVERY_S = 30.0
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development"
}  # else the UI opens it as one of language models


def default_store(runs: Path) -> str:
    """Returns the tracking URI: MLflow's own variable, else a SQLite file in the folder of runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(runs / 'mlflow.db').resolve()}"


def explain_where(folder: Path) -> str | None:
    """Says how to look at a run in MLflow's UI; None if it has not got there yet."""
    path = RunFolder(folder).mlflow_file
    if not path.is_file():
        return None
    state = json.loads(path.read_text(encoding="utf-8"))
    # without the last part the UI shows what it has for language models
    page = f"#/experiments/{state['experiment_id']}/runs/{state['run_id']}?workflowType=machine_learning"
    uri = without_password(state["tracking_uri"])
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/{page}"
    return f"mlflow ui --backend-store-uri {uri}, then http://127.0.0.1:5000/{page}"


def without_password(uri: str) -> str:
    """Returns an address as it may stand in a log."""
    return re.sub(r"(://[^/:@]*):[^/@]*@", r"\1:…@", uri)


def metric_key(name: str) -> str:
    """Returns a name that MLflow accepts: letters, digits and `_-./ :`, at most 250 characters, no path that leads elsewhere."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-./ :") else "_" for c in name)[:KEY_LENGTH]
    return "/".join("_" if part.strip(".") == "" else part for part in plain.split("/"))


class MlflowRun:
    """One run's way to MLflow. `state` says which run it is and how far the copy has come.

    Args:
        folder: The run's folder, with `config.yaml` and, if the run has one, `about.json`.
        experiment: Name of the MLflow experiment.
        uri: Of the store; a store that the run was not copied to before gets a run of its own. None: the one it has.
    """

    def __init__(self, folder: Path, experiment: str, uri: str | None = None) -> None:
        self.folder, self.experiment = folder, experiment
        path = RunFolder(folder).mlflow_file
        self.state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if uri is not None and uri != self.state.get("tracking_uri"):
            others = self.state.pop("others", {})
            if "run_id" in self.state:
                others[self.state["tracking_uri"]] = self.state
            self.state = {**others.pop(uri, {}), "others": others}
        self.uri: str = uri or self.state.get("tracking_uri") or default_store(folder.parent)
        self.connected = False
        self._client: Any = None
        self._tail = RecordTail(RunFolder(folder).metrics_file)
        self._copied_steps: dict[str, set[int]] = {}
        self._tables_at = -math.inf

    def connect(self) -> None:
        """Opens the store; creates the run, or goes on with the one that this folder had."""
        from mlflow import MlflowClient

        logging.getLogger("mlflow").setLevel(logging.WARNING)  # mlflow sets its own level when it is imported
        client = MlflowClient(tracking_uri=self.uri)
        if "run_id" not in self.state:
            run = client.create_run(self._experiment_id(client), run_name=self.folder.name)
            self.state |= {
                "tracking_uri": self.uri,
                "experiment_id": run.info.experiment_id,
                "run_id": run.info.run_id,
                "time": 0.0,
            }
            self._save()  # at once: a run has one id, whatever fails after this
        client.update_run(self.state["run_id"], status="RUNNING")
        self._client, self.connected = client, True

    def disconnect(self) -> None:
        """Forgets the store after an error: what it has of what was sent is asked anew."""
        self._client, self.connected = None, False
        self._copied_steps.clear()
        self._tail.rewind()

    def _describe(self, client: Any) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        about, run_id = read_about(self.folder), self.state["run_id"]
        params = [Param(metric_key(key), value[:VALUE_LENGTH]) for key, value in about.get("params", {}).items()]
        texts = {"matl_scale.folder": str(self.folder.resolve())} | environment_tags(about.get("environment", {}))
        client.log_batch(run_id, params=params, tags=[RunTag(key, value) for key, value in texts.items()])
        if "data" in about:
            tag = InputTag("mlflow.data.context", "training")
            client.log_inputs(run_id, [DatasetInput(Dataset(**dataset_fields(about["data"])), [tag])])
        for path in (RunFolder(self.folder).config_file, RunFolder(self.folder).about_file):
            self._log_file(client, path)

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
        return str(client.create_experiment(self.experiment, artifact_location=location, tags=EXPERIMENT_TAGS))

    def copy_new(self, everything: bool = False) -> None:
        """Copies every record that MLflow does not have yet, then tables and picture if there was an evaluation.

        Args:
            everything: Whether tables go now, however short ago they went.
        """
        if not self.connected:
            with self._alone_in_new_store():
                self.connect()
        records = self._tail.read_after(self.state["time"])
        while records:
            self._copy_batch(records)
        if not self.state.get("described"):  # after the metrics, which must not hang on a store of artifacts
            self._describe(self._client)
            self.state["described"] = True
            self._save()
        if everything or time.monotonic() - self._tables_at >= TABLES_EVERY_S:
            self._copy_tables()

    def _copy_batch(self, records: list[dict[str, Any]]) -> None:
        """Copies as many of the first records as fit into one call, and takes them off the list."""
        from mlflow.entities import Metric

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

    def _is_there(self, record: dict[str, Any]) -> bool:
        """Returns whether MLflow has this record's step: from before the run was killed and repeated it, or because an answer of
        the store was lost."""
        mark = mark_of(record)
        if mark is None:
            return False
        if mark not in self._copied_steps:
            history = self._client.get_metric_history(self.state["run_id"], metric_key(mark))
            self._copied_steps[mark] = {metric.step for metric in history}
        return record["step"] in self._copied_steps[mark]

    def _copy_tables(self) -> None:
        self._tables_at = time.monotonic()
        path = RunFolder(self.folder).per_task_file
        if not path.is_file() or path.stat().st_mtime_ns == self.state.get("tables"):
            return
        changed = path.stat().st_mtime_ns
        if pq.read_metadata(path).num_rows == 0:  # a resumed run forgot its only evaluation
            return
        history, run_id, files = RunHistory(self.folder), self.state["run_id"], RunFolder(self.folder)
        for table in (files.per_task_file, files.draws_file, files.balance_file):
            self._log_file(self._client, table)
        # the layout and the tag that MLflow's own `log_table` writes; that would append to what is there
        self._client.log_dict(run_id, latest_table(history), "per_task.json")
        self._client.set_tag(run_id, "mlflow.loggedArtifacts", json.dumps([{"path": "per_task.json", "type": "table"}]))
        draw_heatmap(history, files.per_task_picture)
        self._log_file(self._client, files.per_task_picture)
        for key, text in {**run_tags(history), "mlflow.note.content": describe_run(history)}.items():
            self._client.set_tag(run_id, metric_key(key), text)
        self.state["tables"] = changed
        self._save()

    def _log_file(self, client: Any, path: Path) -> None:
        if path.is_file():
            client.log_artifact(self.state["run_id"], str(path))

    def finish(self, status: str) -> None:
        """Tells how the run ended; one that finished leaves its best network as a model."""
        if status == "SCHEDULED":
            self._client.update_run(self.state["run_id"], status=status)  # not over: it has no end time
            return
        self._client.set_terminated(self.state["run_id"], status=status)
        best = find_best(self.folder)
        if status == "FINISHED" and best is not None:
            log_best_model(self.uri, best, self.state, self._save)

    def end(self, status: str) -> None:
        """Tells how the run ended if the store can be reached, where something else of the copy fails."""
        with contextlib.suppress(Exception):  # whatever a client raises
            if not self.connected:
                self.connect()
            self._client.set_terminated(self.state["run_id"], status=status)

    @property
    def place(self) -> str:
        """The store's address as it may be printed."""
        return without_password(self.uri)

    def _save(self) -> None:
        write_json(RunFolder(self.folder).mlflow_file, self.state)
