"""What the doctor finds, and that every complaint comes with a remedy."""

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.shard_sets import ShardSet
from matl_scale.data.loading.loader import DataConfig
from matl_scale.doctor import tracking
from matl_scale.doctor.data import check_data
from matl_scale.doctor.finding import Finding
from matl_scale.doctor.machine import check_job, check_processors, check_torchvision, check_versions, satisfies
from matl_scale.doctor.memory import check_memory, estimate_memory
from matl_scale.doctor.tracking import check_tracking
from matl_scale.models.backbones import ModelConfig
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.health import slurm as cluster
from matl_scale.train.health.slurm import describe_interval
from matl_scale.train.run_data import RunData, open_data
from matl_scale.train.step.train_step import TrainConfig


@pytest.fixture
def config(small_set: ShardSet, tmp_path: Path) -> Config:
    return Config(
        run=RunConfig(dir=str(tmp_path)),
        data=DataConfig(path=str(small_set.root), batch_size=6),
        model=ModelConfig(name="resnet18", width=0.0625, stem="small"),
        train=TrainConfig(precision="fp32"),
    )


@pytest.fixture
def data(config: Config) -> RunData:
    return open_data(config)


def complaints(findings: Iterator[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.level in ("warning", "error")]
    assert all(finding.remedy for finding in found)
    return found


def test_labels_that_teach_nothing_are_named(config: Config, data: RunData) -> None:
    labels = data.labels.copy()
    train = data.manifest.rows("train")
    labels[train, 0] = -1
    labels[train, 1] = np.where(labels[train, 1] >= 0, 0, -1)
    texts = [finding.text for finding in complaints(check_data(config, replace(data, labels=labels), 2))]
    assert "1 tasks have no label in `train`: task_0." in texts
    assert "1 tasks have one class only (no positive, or no negative) in `train`: task_1." in texts
    assert any("fewer than 10 samples in `train`" in text and "task_5" in text for text in texts)


def test_more_readers_than_tars(config: Config, data: RunData) -> None:
    streaming = replace(config, data=replace(config.data, reading="stream", workers=9))
    assert [f.level for f in complaints(check_data(streaming, data, 2)) if f.topic == "data"] == ["error"]
    assert not [f for f in complaints(check_data(config, data, 2)) if f.topic == "data"]


def test_memory_grows_with_what_it_should(config: Config, data: RunData) -> None:
    need = estimate_memory(config, data)
    assert need.optimizer == 2 * need.weights
    larger = replace(config, data=replace(config.data, batch_size=12), model=replace(config.model, width=0.125))
    grown = estimate_memory(larger, data)
    assert 3 < grown.weights / need.weights < 4.5
    assert 3.5 < grown.activations / need.activations < 4.5  # twice the batch, twice the units
    huge = replace(config, data=replace(config.data, batch_size=10**9))
    assert [finding.level for finding in check_memory(huge, data, 1)] == ["error"]


def test_processors(config: Config) -> None:
    busy = replace(config, data=replace(config.data, workers=4000))
    assert complaints(check_processors(busy, 2, {}))[0].level == "warning"
    assert "--cpus-per-task=8002" in complaints(check_processors(busy, 2, {"SLURM_CPUS_ON_NODE": "4"}))[0].remedy
    assert not complaints(check_processors(replace(config, data=replace(config.data, workers=0)), 1, {}))


@pytest.mark.parametrize(
    ("uri", "level", "text"),
    [
        ("sqlite:////tmp/x/mlflow.db", "ok", "SQLite in /tmp/x/mlflow.db"),
        ("/tmp/mlruns", "error", "refuse stores of plain files"),
        ("file:///tmp/mlruns", "error", "refuse stores of plain files"),
        ("mysql+mysqldb://host/db", "error", "No module named 'MySQLdb'"),
        ("http://127.0.0.1:9", "warning", "does not answer"),
    ],
)
def test_stores(config: Config, uri: str, level: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    finding = next(check_tracking(config, ask=True))
    assert (finding.level, text in finding.text) == (level, True), finding


def test_sqlite_on_a_network_file_system(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(tracking, "file_system_of", lambda _: "nfs4")
    assert "server with PostgreSQL" in complaints(check_tracking(config, ask=False))[0].remedy


def test_a_server_that_refuses_the_host_name(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuse(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(403)

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        finding = next(check_tracking(config, ask=True))
        thread.join()
    assert finding.level == "error"
    assert f"--allowed-hosts 127.0.0.1:{server.server_port}" in finding.remedy


JOB = "JobId=7 JobName=x Requeue={requeue} EndTime={end} TimeLimit=00:10:00"


def answer_as_scontrol(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    answer = subprocess.CompletedProcess([], 0, stdout=text)
    monkeypatch.setattr(cluster.subprocess, "run", lambda *_, **__: answer)


def test_a_time_limit_below_the_checkpoint_interval(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config.run.folder.mkdir(parents=True)
    record = json.dumps({"step": 10, "time": 1.0, "train/step_s": 2.0})
    (config.run.folder / "metrics.jsonl").write_text(f"{record}\n")
    answer_as_scontrol(monkeypatch, JOB.format(requeue=0, end="2000-01-01T00:00:00"))
    found = complaints(check_job(config, {"SLURM_JOB_ID": "7"}))
    assert "`checkpoint.every` 500 steps take 1,000 s at 2 s a step" in found[0].text
    assert "not requeued" in found[1].text
    assert "MATL_STOP_FILE is not set" in found[2].text
    answer_as_scontrol(monkeypatch, JOB.format(requeue=1, end="2999-01-01T00:00:00"))
    stop = str(config.run.folder / "stop")
    assert not complaints(check_job(config, {"SLURM_JOB_ID": "7", "MATL_STOP_FILE": stop}))


def test_scontrol_is_missing(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert complaints(check_job(config, {"SLURM_JOB_ID": "7"}))[0].text == "scontrol cannot be asked about this job."


def test_interval_and_limit() -> None:
    assert describe_interval(500, 2.0, None) == ""
    assert describe_interval(500, 2.0, 1000.0) == ""
    assert "Set it to at most 50" in describe_interval(500, 2.0, 400.0)


def test_versions() -> None:
    assert not complaints(check_versions())
    assert satisfies("3.17.0", ">=3.13,<4")
    assert not satisfies("4.0", ">=3.13,<4")
    assert not satisfies("3.9", ">=3.13")
    assert check_torchvision("2.13.0+cpu", "0.28.0").level == "ok"
    assert check_torchvision("2.12.1", "0.28.0").level == "error"
