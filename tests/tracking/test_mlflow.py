"""Local files and their copy in MLflow: every record once and in order, whatever happens to the server or the process."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from mlflow.utils.validation import MAX_PARAM_VAL_LENGTH, MAX_PARAMS_TAGS_PER_BATCH

from helpers.local_records import as_older_version, log_evaluation
from matl_scale import InputError
from matl_scale.metrics.names import COUNTED_METRICS
from matl_scale.metrics.task_metrics import TaskMetrics
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.runs.about import write_about
from matl_scale.runs.history import RunHistory
from matl_scale.runs.layout import RunFolder
from matl_scale.runs.records import LocalLog
from matl_scale.runs.routes import write_routes
from matl_scale.tracking.mlflow_follower import follow
from matl_scale.tracking.mlflow_run import MlflowRun
from matl_scale.tracking.mlflow_store import without_password
from matl_scale.tracking.mlflow_views import latest_table
from matl_scale.tracking.recorder import TrackConfig
from matl_scale.train.config import Config, dump_config, walk

DATA = {"path": "set", "manifest_id": "0", "version": "1", "splits": {}, "tasks": 5000, "image_size": 64}


def test_latest_table_has_one_row_per_task_and_split(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    log_evaluation(log, 1)
    log_evaluation(log, 5)
    log_evaluation(log, 5, "test")
    table = latest_table(RunHistory(tmp_path))
    assert table["columns"][:3] == ["task", "balanced_accuracy", "auroc"]
    assert table["columns"][-6:] == ["count", "smallest_class", "draws", "labels_seen", "split", "step"]
    assert set(table["columns"][1:-6]) == set(COUNTED_METRICS) - {"smallest_class"}
    assert [[*row[:3], *row[-6:]] for row in table["data"]] == [
        ["a", "0.5500", "0.9000", 7, 2, 5, 35, "val", 5],
        ["b", "", "0.8000", 8, 0, 10, 40, "val", 5],  # undefined values come last
        ["a", "0.5500", "0.9000", 7, 2, 5, 35, "test", 5],
        ["b", "", "0.8000", 8, 0, 10, 40, "test", 5],
    ]


def test_latest_table_names_routes_that_tasks_share(tmp_path: Path) -> None:
    log_evaluation(LocalLog(tmp_path), 5)
    write_routes(tmp_path / "routes.parquet", ["a", "b"], Routes.build(["both"], [0, 0]))
    table = latest_table(RunHistory(tmp_path))
    assert table["columns"][-4:] == ["labels_seen", "route", "split", "step"]
    assert [row[-3:] for row in table["data"]] == [["both", "val", 5]] * 2
    client = FakeClient()
    run_at(tmp_path, client).copy_new()
    assert "2 tasks on 1 route: artifact `routes.parquet`" in client.tags["mlflow.note.content"]
    assert "routes.parquet" in client.artifacts


def test_latest_table_of_an_older_version(tmp_path: Path) -> None:
    """It did not count labels, nor the samples of each class."""
    log_evaluation(LocalLog(tmp_path), 5)
    history = pq.read_table(tmp_path / "per_task.parquet")
    as_older_version(tmp_path / "per_task.parquet", history.filter(pc.field("metric") != "smallest_class"))
    draws = tmp_path / "draws.parquet"
    as_older_version(draws, pq.read_table(draws).drop(["labels"]))
    table = latest_table(RunHistory(tmp_path))
    assert table["columns"][-4:] == ["count", "draws", "split", "step"]
    assert [row[-4:] for row in table["data"]] == [[7, 5, "val", 5], [8, 10, "val", 5]]


def test_a_mapping_of_thousands_of_tasks_is_a_parameter(tmp_path: Path) -> None:
    routing = RoutingConfig(routes={f"route {i}": [f"task {i}-{j}" for j in range(100)] for i in range(50)})
    params = dict(walk(Config(routing=routing)))
    write_about(tmp_path, params, DATA, ["cpu"])
    LocalLog(tmp_path).log(1, {"train/lr": 0.1})
    client = FakeClient()
    run_at(tmp_path, client).copy_new()
    assert set(client.params) == set(params)
    assert client.params["routing.routes"].endswith("…")
    text = client.params["routing.routes"].removesuffix("…")
    assert str(routing.routes).startswith(text)
    assert len(text) > 5000


def test_curves_are_few() -> None:
    names = [f"t{i}" for i in range(100)]
    assert TrackConfig(curves=["t1", "t2?"]).curve_tasks(names) == [1, *range(20, 30)]
    with pytest.raises(InputError, match="at most 50"):
        TrackConfig(curves=["*"]).curve_tasks(names)


class FakeClient:
    """Stands for a store that can be away; records what it receives."""

    def __init__(self, run_id: str = "r") -> None:
        self.run_id = run_id
        self.away = False
        self.metrics: list[tuple[int, str, float]] = []
        self.status = ""
        self.artifacts: list[str] = []
        self.tags: dict[str, str] = {}
        self.params: dict[str, str] = {}

    def get_experiment_by_name(self, _: str) -> None:
        return None

    def create_experiment(self, _: str, **__: object) -> str:
        return "1"

    def create_run(self, experiment_id: str, run_name: str, tags: dict[str, str]) -> SimpleNamespace:  # noqa: ARG002
        if self.away:
            raise ConnectionError("away")
        self.tags |= tags
        return SimpleNamespace(info=SimpleNamespace(experiment_id=experiment_id, run_id=self.run_id))

    def update_run(self, _: str, status: str) -> None:
        self.status = status

    def log_batch(self, _: str, metrics: Sequence = (), params: Sequence = (), tags: Sequence = ()) -> None:
        if self.away:
            raise ConnectionError("away")
        assert len(metrics) + len(params) + len(tags) <= 1000
        assert len(params) + len(tags) <= MAX_PARAMS_TAGS_PER_BATCH
        assert all(len(param.value) <= MAX_PARAM_VAL_LENGTH for param in params)
        for param in params:
            assert self.params.setdefault(param.key, param.value) == param.value, "MLflow changes no parameter"
        self.metrics += [(metric.step, metric.key, metric.value) for metric in metrics]

    def get_run(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(data=SimpleNamespace(params=dict(self.params)))

    def log_inputs(self, _: str, __: Sequence) -> None:
        """Data sets are of no interest here."""

    def log_artifact(self, _: str, path: str) -> None:
        self.artifacts.append(Path(path).name)

    def log_dict(self, _: str, __: dict, name: str) -> None:
        self.artifacts.append(name)

    def get_metric_history(self, _: str, key: str) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(step=step, value=value, timestamp=number)
            for number, (step, name, value) in enumerate(self.metrics)
            if name == key
        ]

    def set_tag(self, _: str, key: str, value: str) -> None:
        self.tags[key] = value

    def set_terminated(self, _: str, status: str) -> None:
        self.status = status


def run_at(folder: Path, client: FakeClient, uri: str = "sqlite:///fake") -> MlflowRun:
    """Returns the copy of a run to a store that is a `FakeClient`."""
    return MlflowRun(folder, "experiment", uri, open_client=lambda _: client)


def test_a_store_that_was_away_is_caught_up_in_order_and_once(tmp_path: Path) -> None:
    client, log = FakeClient(), LocalLog(tmp_path)
    follower = run_at(tmp_path, client)
    log.log(1, {"loss": 1.0})
    follower.copy_new()
    client.away = True
    for step in (2, 3):
        log.log(step, {"loss": float(step)})
        with pytest.raises(ConnectionError):
            follower.copy_new()
    client.away = False
    follower = run_at(tmp_path, client)  # a new process
    log.log(4, {"loss": 4.0})
    follower.copy_new()
    follower.copy_new()
    assert client.metrics == [(step, "loss", float(step)) for step in (1, 2, 3, 4)]


def test_tags_of_the_config_are_those_of_the_copy_even_if_the_store_was_away(tmp_path: Path) -> None:
    config = Config(track=TrackConfig(tags={"sweep/arm": "dense", "seed": "3"}))
    (tmp_path / "config.yaml").write_text(dump_config(config))
    LocalLog(tmp_path).log(1, {"loss": 1.0})
    client = FakeClient()
    client.away = True
    follower = run_at(tmp_path, client)
    with pytest.raises(ConnectionError):
        follower.copy_new()
    client.away = False
    follower.copy_new()
    assert {name: client.tags[name] for name in config.track.tags} == config.track.tags
    client.tags.clear()  # somebody edits them
    run_at(tmp_path, client).copy_new()
    assert not set(client.tags) & set(config.track.tags), "an existing copy keeps the tags that it has"


def test_a_run_of_an_older_version_has_no_tags(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("track:\n  experiment: matl_scale\n")
    client = FakeClient()
    run_at(tmp_path, client).copy_new()
    assert client.tags == {}


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"": "x"}, "names of 1 to 250 letters"),
        ({"what?": "x"}, r"Got 'what\?'"),
        ({"../up": "x"}, r"Got '\.\./up'"),
        ({"a//b": "x"}, "Got 'a//b'"),
        ({"x" * 251: "x"}, "names of 1 to 250 letters"),
        ({"mlflow.user": "x"}, r"begin with mlflow\., matl_scale\., env\..*Got 'mlflow\.user'"),
        ({"note": "x" * 5001}, "at most 5000 characters. That of 'note' has 5001"),
    ],
)
def test_tags_that_mlflow_would_refuse_are_refused_before(tags: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrackConfig(tags=tags)


def test_a_lost_reply_doubles_nothing(tmp_path: Path) -> None:
    """The store receives a batch, and the connection breaks before it can confirm that."""
    client, log = FakeClient(), LocalLog(tmp_path)
    run = run_at(tmp_path, client)
    receive = client.log_batch

    def receive_and_break(run_id: str, metrics: Sequence = (), **_: Sequence) -> None:
        receive(run_id, metrics)
        raise ConnectionError("away")

    for step in (1, 2, 3):
        log.log(step, {"train/lr": 0.1, "train/loss": float(step)})
    client.log_batch = receive_and_break  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        run.copy_new()
    run.disconnect()
    client.log_batch = receive  # type: ignore[method-assign]
    log.log(4, {"train/lr": 0.1, "train/loss": 4.0})
    run.copy_new()
    assert [(step, value) for step, name, value in client.metrics if name == "train/loss"] == [
        (step, float(step)) for step in (1, 2, 3, 4)
    ]


def test_what_mlflow_shows_first(tmp_path: Path) -> None:
    log = LocalLog(tmp_path)
    values = {name: np.array([0.25, 0.5]) for name in COUNTED_METRICS}
    log.log_per_task(7, "val", ["<b>x_y</b>", "plain"], TaskMetrics(values=values, counts=np.array([3, 3])))
    client = FakeClient()
    run_at(tmp_path, client).copy_new()
    text = client.tags["mlflow.note.content"]
    first = "**val after 7 steps: 2 tasks, mean balanced accuracy 0.3750 (10th percentile 0.2750), not better than the "
    assert text.startswith(first + "baseline beyond chance: 2 of 2**")
    assert r"Tasks not better than the baseline beyond chance: 2 of 2: \<b\>x\_y\</b\>, plain" in text
    assert r"\<b\>x\_y\</b\> 0.2500, plain 0.5000" in text
    assert "| worst | 0.2500 | 0.2500 | 0.2500 | 0.2500 |" in text
    assert client.tags["val/worst_task"] == "<b>x_y</b> (0.2500)"


def test_many_records_go_in_batches(tmp_path: Path) -> None:
    client, log = FakeClient(), LocalLog(tmp_path)
    for step in range(300):
        log.log(step, {f"m{i}": 1.0 for i in range(7)})
    run_at(tmp_path, client).copy_new()
    assert len(client.metrics) == 2100


def test_steps_that_a_killed_run_repeats_are_copied_once(tmp_path: Path) -> None:
    client, log = FakeClient(), LocalLog(tmp_path)
    for step in (1, 2, 3):
        log.log(step, {"train/lr": 0.1})
    run_at(tmp_path, client).copy_new()
    log.forget_after(1)
    for step in (2, 3, 4):
        log.log(step, {"train/lr": 0.1})
    run_at(tmp_path, client).copy_new()
    assert [step for step, _, _ in client.metrics] == [1, 2, 3, 4]


def test_a_resumed_run_shows_the_config_that_it_goes_on_with(tmp_path: Path) -> None:
    client, files = FakeClient(), RunFolder(tmp_path)
    for epochs in ("1", "1", "2"):
        files.config_file.write_text(f"train: {{epochs: {epochs}}}")
        write_about(tmp_path, {"train.epochs": epochs, f"added.{epochs}": "x"}, DATA, ["cpu"])
        run_at(tmp_path, client).copy_new()
    assert client.artifacts == [files.config_file.name, files.about_file.name] * 2
    assert client.params == {"train.epochs": "1", "added.1": "x", "added.2": "x"}


def test_an_evaluation_that_is_recorded_again_replaces_what_mlflow_shows(tmp_path: Path) -> None:
    """By other decisions or corrected labels; the same values are not copied twice."""
    client, log = FakeClient(), LocalLog(tmp_path)
    for accuracy in (0.5, 0.5, 0.8):
        log.forget_evaluation(3, "val")
        log.log(3, {"val/tasks_evaluated": 2.0, "val/macro_accuracy": accuracy})
        run_at(tmp_path, client).copy_new()
    assert [value for _, key, value in client.metrics if key == "val/macro_accuracy"] == [0.5, 0.8]


@pytest.mark.parametrize(("left", "status"), [("FINISHED", "FINISHED"), ("KILLED", "KILLED"), (None, "FAILED")])
def test_the_final_status_is_true(tmp_path: Path, left: str | None, status: str) -> None:
    client, log = FakeClient(), LocalLog(tmp_path)
    log.log(1, {"loss": 1.0})
    log_evaluation(log, 1)
    if left:
        (tmp_path / "status.json").write_text(json.dumps({"status": left}))
    reading, writing = os.pipe()
    os.close(writing)  # the training process is gone
    assert follow(run_at(tmp_path, client), reading) == 0
    os.close(reading)
    assert client.status == status
    assert client.metrics == [(1, "loss", 1.0)]
    assert set(client.artifacts) == {"per_task.parquet", "draws.parquet", "per_task.json", "per_task.png"}


def test_passwords_are_not_printed() -> None:
    assert without_password("postgresql://me:secret@host/db") == "postgresql://me:…@host/db"
    assert without_password("http://host:5000") == "http://host:5000"
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"


def test_a_run_between_two_stores_has_one_run_in_each(tmp_path: Path) -> None:
    clients = {uri: FakeClient(f"run in {uri}") for uri in ("sqlite:///a", "sqlite:///b")}
    LocalLog(tmp_path).log(1, {"train/lr": 0.1})
    for uri in ("sqlite:///a", "sqlite:///b", "sqlite:///a"):
        run = run_at(tmp_path, clients[uri], uri)
        run.copy_new()
        assert run.state["run_id"] == f"run in {uri}"
    assert [len(client.metrics) for client in clients.values()] == [1, 1]
