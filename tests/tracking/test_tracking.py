"""Local files, and their copy in MLflow: every record once, in order, whatever happens to server or process."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from matl_scale import InputError
from matl_scale.metrics.names import METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.runs.history import RunHistory
from matl_scale.runs.records import LocalLog, RecordTail
from matl_scale.tracking.mlflow_follower import follow
from matl_scale.tracking.mlflow_run import MlflowRun, metric_key
from matl_scale.tracking.mlflow_store import without_password
from matl_scale.tracking.mlflow_views import latest_table
from matl_scale.tracking.recorder import TrackConfig

TASKS = ["a", "b"]


def log_evaluation(log: LocalLog, step: int, split: str = "val") -> None:
    values = {name: np.full(2, np.nan) for name in METRICS}
    values |= {"balanced_accuracy": np.array([0.5 + step / 100, np.nan]), "auroc": np.array([0.9, 0.8])}
    log.log_per_task(step, split, TASKS, TaskMetrics(values=values, counts=np.array([7, 8])))
    log.log_draws(step, TASKS, np.array([step, 2 * step]))


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_records_leave_out_what_is_not_finite_and_have_distinct_times(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    for step in range(50):
        log.log(step, {"loss": 1.0, "bad": float("nan"), "worse": float("inf")})
    assert all(record.keys() == {"step", "time", "loss"} for record in records(tmp_path))
    times = [record["time"] for record in records(tmp_path)]
    assert sorted(set(times)) == times


def test_per_task_history_is_long_and_null_where_undefined(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log_evaluation(log, 1)
    log_evaluation(log, 2)
    log_evaluation(log, 2)  # again: replaced
    log_evaluation(log, 2, "test")
    table = pq.read_table(tmp_path / "per_task.parquet")
    assert table.column_names == ["step", "split", "task", "metric", "value", "count"]
    assert table.num_rows == 3 * 2 * len(METRICS)
    rows = {(r["step"], r["split"], r["task"], r["metric"]): (r["value"], r["count"]) for r in table.to_pylist()}
    assert rows[(2, "val", "a", "balanced_accuracy")] == (0.52, 7)
    assert rows[(2, "test", "b", "balanced_accuracy")] == (None, 8)


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    for step in (1, 2, 3):
        log.log(step, {"loss": 1.0})
        log_evaluation(log, step)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "ti')  # killed while writing
    log.forget_after(2)
    log.log(3, {"loss": 2.0})
    assert [record["step"] for record in records(tmp_path)] == [1, 2, 3]
    assert set(pq.read_table(tmp_path / "per_task.parquet")["step"].to_pylist()) == {1, 2}
    assert set(pq.read_table(tmp_path / "draws.parquet")["step"].to_pylist()) == {1, 2}


def test_latest_table_has_one_row_per_task_and_split(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log_evaluation(log, 1)
    log_evaluation(log, 5)
    log_evaluation(log, 5, "test")
    table = latest_table(RunHistory(tmp_path))
    assert table["columns"][:3] == ["task", "balanced_accuracy", "auroc"]
    assert table["columns"][-4:] == ["count", "draws", "split", "step"]
    assert set(table["columns"][1:-4]) == set(METRICS)
    assert [[*row[:3], *row[-4:]] for row in table["data"]] == [
        ["a", "0.5500", "0.9000", 7, 5, "val", 5],
        ["b", "", "0.8000", 8, 10, "val", 5],  # what is undefined comes last
        ["a", "0.5500", "0.9000", 7, 5, "test", 5],
        ["b", "", "0.8000", 8, 10, "test", 5],
    ]


def test_curves_are_few() -> None:
    names = [f"t{i}" for i in range(100)]
    assert TrackConfig(curves=["t1", "t2?"]).curve_tasks(names) == [1, *range(20, 30)]
    with pytest.raises(InputError, match="at most 50"):
        TrackConfig(curves=["*"]).curve_tasks(names)


def test_metric_keys_are_what_mlflow_takes() -> None:
    assert metric_key("task/é(x)/auroc") == "task/__x_/auroc"
    assert len(metric_key("x" * 900)) == 250
    assert metric_key("task/../../x//auroc") == "task/_/_/x/_/auroc"


class FakeClient:
    """Stands for a store that can be away; keeps what it was given."""

    def __init__(self) -> None:
        self.away = False
        self.metrics: list[tuple[int, str, float]] = []
        self.status = "RUNNING"
        self.artifacts: list[str] = []
        self.tags: dict[str, str] = {}

    def log_batch(self, _: str, metrics: list) -> None:
        if self.away:
            raise ConnectionError("away")
        assert len(metrics) <= 1000
        self.metrics += [(metric.step, metric.key, metric.value) for metric in metrics]

    def log_artifact(self, _: str, path: str) -> None:
        self.artifacts.append(Path(path).name)

    def log_dict(self, _: str, __: dict, name: str) -> None:
        self.artifacts.append(name)

    def get_metric_history(self, _: str, key: str) -> list[SimpleNamespace]:
        return [SimpleNamespace(step=step, value=value) for step, name, value in self.metrics if name == key]

    def set_tag(self, _: str, key: str, value: str) -> None:
        self.tags[key] = value

    def set_terminated(self, _: str, status: str) -> None:
        self.status = status


class FakeRun(MlflowRun):
    """A run whose store is a `FakeClient`."""

    def __init__(self, folder: Path, client: FakeClient, uri: str | None = None) -> None:
        super().__init__(folder, "experiment", uri)
        self.fake = client

    def connect(self) -> None:
        self.state.setdefault("run_id", "r")
        self.state.setdefault("time", 0.0)
        self.state.setdefault("described", True)
        self._client, self.connected = self.fake, True


def test_a_store_that_was_away_is_caught_up_in_order_and_once(tmp_path: Path) -> None:
    client, log = FakeClient(), LocalLog(tmp_path)
    follower = FakeRun(tmp_path, client)
    log.log(1, {"loss": 1.0})
    follower.copy_new()
    client.away = True
    for step in (2, 3):
        log.log(step, {"loss": float(step)})
        with pytest.raises(ConnectionError):
            follower.copy_new()
    client.away = False
    follower = FakeRun(tmp_path, client)  # a new process
    log.log(4, {"loss": 4.0})
    follower.copy_new()
    follower.copy_new()
    assert client.metrics == [(step, "loss", float(step)) for step in (1, 2, 3, 4)]


def test_an_answer_that_was_lost_doubles_nothing(tmp_path: Path) -> None:
    """The store takes what it is sent, and the connection breaks before it can say so."""
    client, log = FakeClient(), LocalLog(tmp_path)
    run = FakeRun(tmp_path, client)
    take = client.log_batch

    def take_and_break(run_id: str, metrics: list) -> None:
        take(run_id, metrics)
        raise ConnectionError("away")

    for step in (1, 2, 3):
        log.log(step, {"train/lr": 0.1, "train/loss": float(step)})
    client.log_batch = take_and_break  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        run.copy_new()
    run.disconnect()
    client.log_batch = take  # type: ignore[method-assign]
    log.log(4, {"train/lr": 0.1, "train/loss": 4.0})
    run.copy_new()
    assert [(step, value) for step, name, value in client.metrics if name == "train/loss"] == [
        (step, float(step)) for step in (1, 2, 3, 4)
    ]


def test_records_are_read_from_where_they_stopped(tmp_path: Path) -> None:
    log, tail = LocalLog(tmp_path), RecordTail(tmp_path / "metrics.jsonl")
    assert tail.read_after(0) == []
    log.log(1, {"loss": 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "ti')  # not written to its end yet
    assert [record["step"] for record in tail.read_after(0)] == [1]
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('me": 3e9}\n')
    assert [record["step"] for record in tail.read_after(0)] == [2]
    log.forget_after(1)
    log.log(2, {"loss": 1.0})
    assert [record["step"] for record in tail.read_after(0)] == [1, 2]  # the file is another one


def test_what_mlflow_shows_first(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    values = {name: np.array([0.25, 0.5]) for name in METRICS}
    log.log_per_task(7, "val", ["<b>x_y</b>", "plain"], TaskMetrics(values=values, counts=np.array([3, 3])))
    client = FakeClient()
    FakeRun(tmp_path, client).copy_new()
    text = client.tags["mlflow.note.content"]
    first = "**val after 7 steps: 2 tasks, mean balanced accuracy 0.3750 (10th percentile 0.2750), 0 below the majority"
    assert text.startswith(first)
    assert r"\<b\>x\_y\</b\> 0.2500, plain 0.5000" in text
    assert "| worst | 0.2500 | 0.2500 | 0.2500 | 0.2500 |" in text
    assert client.tags["val/worst_task"] == "<b>x_y</b> (0.2500)"


def test_many_records_go_in_batches(tmp_path: Path) -> None:
    client, log = FakeClient(), LocalLog(tmp_path)
    for step in range(300):
        log.log(step, {f"m{i}": 1.0 for i in range(7)})
    FakeRun(tmp_path, client).copy_new()
    assert len(client.metrics) == 2100


def test_steps_that_a_killed_run_repeats_are_copied_once(tmp_path: Path) -> None:
    client, log = FakeClient(), LocalLog(tmp_path)
    for step in (1, 2, 3):
        log.log(step, {"train/lr": 0.1})
    FakeRun(tmp_path, client).copy_new()
    log.forget_after(1)
    for step in (2, 3, 4):
        log.log(step, {"train/lr": 0.1})
    FakeRun(tmp_path, client).copy_new()
    assert [step for step, _, _ in client.metrics] == [1, 2, 3, 4]


@pytest.mark.parametrize(("left", "status"), [("FINISHED", "FINISHED"), ("KILLED", "KILLED"), (None, "FAILED")])
def test_the_final_status_is_true(tmp_path: Path, left: str | None, status: str) -> None:
    client, log = FakeClient(), LocalLog(tmp_path)
    log.log(1, {"loss": 1.0})
    log_evaluation(log, 1)
    if left:
        (tmp_path / "status.json").write_text(json.dumps({"status": left}))
    reading, writing = os.pipe()
    os.close(writing)  # the training process is gone
    assert follow(FakeRun(tmp_path, client), reading) == 0
    os.close(reading)
    assert client.status == status
    assert client.metrics == [(1, "loss", 1.0)]
    assert set(client.artifacts) == {"per_task.parquet", "draws.parquet", "per_task.json", "per_task.png"}


def test_the_evaluation_made_last_is_shown_though_it_is_of_an_earlier_step(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    for step in (1, 2, 3):
        log.log(step, {"val/tasks_evaluated": 2.0, "val/macro_loss": float(step)})
        log_evaluation(log, step)
    log.forget_evaluation(2, "val")
    log.log(2, {"val/tasks_evaluated": 2.0, "val/macro_loss": 2.0})
    log_evaluation(log, 2)  # matl-evaluate with the best network
    assert RunHistory(tmp_path).latest("val").step == 2
    assert sorted(record["step"] for record in records(tmp_path)) == [1, 2, 3]


def test_a_history_without_rows_is_one_line(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log_evaluation(log, 3)
    log.forget_after(1)
    with pytest.raises(InputError, match="has no evaluation: it went back to a step before its first one"):
        RunHistory(tmp_path)


def test_passwords_are_not_printed() -> None:
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:…@host/db"
    assert without_password("http://host:5000") == "http://host:5000"
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_a_run_between_two_stores_has_one_run_in_each(tmp_path: Path) -> None:
    clients = {uri: FakeClient() for uri in ("sqlite:///a", "sqlite:///b")}

    class Stored(FakeRun):
        def connect(self) -> None:
            self.state.setdefault("tracking_uri", self.uri)
            self.state.setdefault("run_id", f"run in {self.uri}")
            super().connect()
            self._save()

    LocalLog(tmp_path).log(1, {"train/lr": 0.1})
    for uri in ("sqlite:///a", "sqlite:///b", "sqlite:///a"):
        run = Stored(tmp_path, clients[uri], uri)
        run.copy_new()
        assert run.state["run_id"] == f"run in {uri}"
    assert [len(client.metrics) for client in clients.values()] == [1, 1]
