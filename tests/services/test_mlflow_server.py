"""A team's MLflow: a server with PostgreSQL, which may go away while a run goes on."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.servers import MlflowServer, postgres
from helpers.shard_sets import ShardSet
from matl_scale.doctor.tracking import ask_server

ROOT = Path(__file__).parents[2]
AWAY_S = float(os.environ.get("MATL_TEST_AWAY_S", "10"))
pytestmark = [
    pytest.mark.services,
    pytest.mark.filterwarnings("ignore"),
]  # mlflow and what it imports warn about each other


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with postgres() as store:
        found = MlflowServer(store, tmp_path_factory.mktemp("mlflow"))
        found.start()
        yield found
        found.kill()


def start_run(server: MlflowServer, shards: ShardSet, runs: Path, steps: int) -> subprocess.Popen[str]:
    settings = {
        "run.dir": runs, "run.name": "run", "data.path": shards.root, "data.batch_size": 6, "data.workers": 0,
        "model.width": 0.0625, "model.stem": "small", "train.steps": steps, "eval.every": 50, "checkpoint.every": 500,
        "track.every": 1,
    }  # fmt: skip
    arguments = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": server.uri, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "launch/train.py", *arguments], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )


def local_records(folder: Path) -> list[dict[str, Any]]:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def wait_for_records(folder: Path, count: int) -> None:
    deadline = time.monotonic() + 180
    while len(local_records(folder)) < count:
        assert time.monotonic() < deadline, "the run makes no steps"
        time.sleep(0.2)


def test_a_server_that_is_away_gets_every_point_once(server: MlflowServer, small_set: ShardSet, tmp_path: Path) -> None:
    """The server is away for MATL_TEST_AWAY_S seconds; the run has steps for two minutes."""
    from mlflow import MlflowClient

    folder = tmp_path / "run"
    run = start_run(server, small_set, tmp_path, steps=round(200 + 60 * AWAY_S))
    wait_for_records(folder, 40)
    server.kill()
    before = len(local_records(folder))
    time.sleep(AWAY_S)
    assert len(local_records(folder)) > before + 20, "the run waits for the server"
    server.start()
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors
    assert errors.count("is not available") >= 1
    client = MlflowClient(server.uri)
    found = client.search_runs([client.get_experiment_by_name("matl_scale").experiment_id])
    assert [each.info.status for each in found] == ["FINISHED"]
    records = local_records(folder)
    for key in {key for record in records for key in record} - {"step", "time"}:
        history = [(m.step, m.value, m.timestamp) for m in client.get_metric_history(found[0].info.run_id, key)]
        assert history == [(r["step"], r[key], int(r["time"] * 1000)) for r in records if key in r], key


def test_artifacts_and_the_model_can_be_used(server: MlflowServer, small_set: ShardSet, tmp_path: Path) -> None:
    import mlflow
    from mlflow import MlflowClient

    run = start_run(server, small_set, tmp_path, steps=8)
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 0, errors
    state = json.loads((tmp_path / "run/mlflow.json").read_text())
    client = MlflowClient(server.uri)
    names = {artifact.path for artifact in client.list_artifacts(state["run_id"])}
    assert {"config.yaml", "about.json", "per_task.parquet", "per_task.json", "per_task.png"} <= names
    mlflow.set_tracking_uri(server.uri)
    model = mlflow.pyfunc.load_model(f"models:/{state['model_id']}")
    images = np.zeros((1, 3, 16, 16), dtype=np.uint8)
    assert model.predict(images, params={"task": "task_2"}).shape == (1, 3)
    assert model.predict(images, params={"task": "task_2", "output": "decisions"}).shape == (1, 1)


def test_the_doctor_meets_the_host_check(server: MlflowServer, tmp_path: Path) -> None:
    """MLflow refuses host names that it does not know, except on its pages for health and version."""
    assert ask_server(server.uri).level == "ok"
    strict = MlflowServer(f"sqlite:///{tmp_path}/mlflow.db", tmp_path, "--allowed-hosts", "tracking.example.org")
    strict.start()
    try:
        refused = ask_server(strict.uri)
    finally:
        strict.kill()
    assert refused.level == "error"
    assert f"--allowed-hosts 127.0.0.1:{strict.port}" in refused.remedy
