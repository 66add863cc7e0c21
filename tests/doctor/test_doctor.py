"""What the doctor finds, and that every complaint comes with a remedy."""

import http.server
import json
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from helpers.run_configs import plain
from helpers.shard_sets import ShardSet
from helpers.tiny_transformers import tiny_timm_config
from matl_scale.data.loading.config import DataConfig
from matl_scale.data.shards.labels import Labels
from matl_scale.doctor.__main__ import main
from matl_scale.doctor.data import check_data
from matl_scale.doctor.finding import Finding
from matl_scale.doctor.job import check_job
from matl_scale.doctor.machine import check_processors
from matl_scale.doctor.masks import check_masks
from matl_scale.doctor.memory import check_memory, estimate_memory
from matl_scale.doctor.routes import check_routes, describe_roaming
from matl_scale.doctor.tracking import check_tracking, file_system_of
from matl_scale.doctor.versions import check_torchvision, check_versions
from matl_scale.models.backbone_size import measure_backbone
from matl_scale.models.config import ModelConfig
from matl_scale.models.routing_config import RoutingConfig
from matl_scale.routes import Routes
from matl_scale.train.build_routes import build_routes
from matl_scale.train.config import Config, RunConfig
from matl_scale.train.defaults.facts import read_machine
from matl_scale.train.health.slurm import find_interval_problem
from matl_scale.train.resolve import resolve_run
from matl_scale.train.run_data import RunData, build_run_data
from matl_scale.train.step.train_step import TrainConfig


@pytest.fixture
def config(small_set: ShardSet, tmp_path: Path) -> Config:
    config = Config(
        run=RunConfig(dir=str(tmp_path)),
        data=DataConfig(path=str(small_set.root), batch_size=6, workers=2),
        model=ModelConfig(name="resnet18", width=0.0625, stem="small"),
        train=TrainConfig(precision="fp32"),
    )
    return plain(config)


@pytest.fixture
def data(config: Config) -> RunData:
    return build_run_data(config.data)


@pytest.mark.filterwarnings("ignore")  # what it imports warns
def test_the_command(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data.path", config.data.path, "--run.dir", config.run.dir, "--model.width", "0.0625"]
    assert main([*arguments, "--model.stem", "small", "--data.workers", "0", "--ranks", "1"]) == 0
    shown = capsys.readouterr().out
    assert "0 errors" in shown.splitlines()[-1]
    for number in ("0", "x"):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--ranks", number])
        assert ended.value.code == 2
    assert "matl-doctor: error: --ranks should be a multiple of the 1 nodes. Got 0." in capsys.readouterr().err


def complaints(findings: Iterator[Finding]) -> list[Finding]:
    found = [finding for finding in findings if finding.level in ("warning", "error")]
    assert all(finding.remedy for finding in found)
    return found


def test_labels_that_teach_nothing_are_named(config: Config, data: RunData) -> None:
    labels = data.labels.at(np.arange(data.manifest.num_samples))
    train = data.manifest.sample_ids("train")
    labels[train, 0] = -1
    labels[train, 1] = np.where(labels[train, 1] >= 0, 0, -1)
    texts = [
        finding.text for finding in complaints(check_data(config, replace(data, labels=Labels.of_matrix(labels)), 2))
    ]
    assert f"Split `train` of {data.manifest.root} has no label for 1 task: task_0." in texts
    assert "1 task has one class only (no positive, or no negative) in `train`: task_1." in texts
    assert any("fewer than 10 samples in `train`" in text and "task_5" in text for text in texts)


def test_more_readers_than_tars(config: Config, data: RunData) -> None:
    streaming = replace(config, data=replace(config.data, reading="stream", workers=9))
    assert [f.level for f in complaints(check_data(streaming, data, 2)) if f.topic == "data"] == ["error"]
    assert not [f for f in complaints(check_data(config, data, 2)) if f.topic == "data"]


def test_memory_grows_with_what_it_should(config: Config, data: RunData) -> None:
    routes = Routes.one_per_task(data.task_names)
    need = estimate_memory(config, data, routes, "single")
    assert need.optimizer == 2 * need.weights
    larger = replace(config, data=replace(config.data, batch_size=12), model=replace(config.model, width=0.125))
    grown = estimate_memory(larger, data, routes, "single")
    assert 3 < grown.weights / need.weights < 4.5
    assert 3.5 < grown.activations / need.activations < 4.5  # twice the batch, twice the units
    huge = replace(config, data=replace(config.data, batch_size=10**9))
    assert [finding.level for finding in check_memory(huge, data, routes, 1, "single")] == ["error"]


def test_what_a_transformer_keeps_is_counted(config: Config, data: RunData) -> None:
    """By the doctor, and about by the rule that chooses the batch."""
    model = tiny_timm_config()
    model = replace(model, args={**model.args, "embed_dim": 64, "depth": 4})
    need = estimate_memory(replace(config, model=model), data, Routes.build(["all"], [0] * 6), "single")
    # per block and token at least: normed twice, queries, keys and values, heads, hidden units and what the GELU makes of them
    least = 4 * (16 + 1) * (2 * 64 + 3 * 64 + 64 + 2 * 256) * 4
    batch = int(config.data.batch_size)
    assert 0.7 * least < need.activations / batch < 3 * least
    assert 0.5 < measure_backbone(model, 16).activation_bytes / (need.activations / batch) < 2


def test_frozen_weights_need_no_gradients(config: Config, data: RunData) -> None:
    routes = Routes.build(["all"], [0] * 6)
    need = estimate_memory(config, data, routes, "single")
    probe = estimate_memory(replace(config, model=replace(config.model, freeze=["*"])), data, routes, "single")
    assert probe.weights == need.weights == need.gradients
    assert 0 < probe.gradients < need.gradients / 10
    assert (probe.optimizer, probe.activations) == (2 * probe.gradients, 0)


def test_heads_of_inactive_routes_need_no_gradients(config: Config, data: RunData) -> None:
    shared = estimate_memory(config, data, Routes.build(["all"], [0] * 6), "single")
    alone = estimate_memory(config, data, Routes.one_per_task(data.task_names), "single")
    assert shared.weights == alone.weights
    assert shared.gradients == shared.weights > alone.gradients
    assert shared.tasks < alone.tasks


def test_routes_and_what_they_cost(config: Config, data: RunData) -> None:
    """The small set has 3.7 labels per image: more passes than the plain network costs at σ = 0.8."""
    config = replace(config, routing=RoutingConfig(sigma=0.8))
    chosen = build_routes(config, data, None, None)
    findings = list(check_routes(config, data, chosen))
    assert [finding.level for finding in findings] == ["note", "ok", "note"]
    assert (
        "routing.routes auto → 2: an image has 3.7 labels on average, more than 1 / cost of a pass = 1.56"
        in findings[0].text
    )
    assert findings[1].text.startswith("2 routes for 6 tasks, ")
    assert findings[2].text == "1 task has less than one label in a batch of the route: task_5."
    alone = replace(config, routing=RoutingConfig(sigma=0.8, routes="task"))
    assert [finding.level for finding in check_routes(alone, data, build_routes(alone, data, None, None))] == ["ok"]
    labels = data.labels.at(np.arange(data.manifest.num_samples))
    labels[data.manifest.sample_ids("val"), 3] = -1
    unmeasured = check_routes(
        alone, replace(data, labels=Labels.of_matrix(labels)), build_routes(alone, data, None, None)
    )
    assert [finding.text for finding in complaints(unmeasured)] == ["no task of 1 routes has a label in `val`: task_3."]


def test_masks_that_move(config: Config, data: RunData) -> None:
    """Of 32 units, each of two routes begins with 16: 16 moves, of 8 bytes per route and layer."""
    routing = RoutingConfig(sigma=0.5, routes=2, strategy="roaming")
    config = replace(config, routing=routing, train=replace(config.train, steps=100))
    found = describe_roaming(resolve_run(config, data, read_machine(1), None, None))
    assert found.level == "note"
    assert found.text.startswith("masks move 16 times, about every 5 steps; after that each route has tried all units.")
    rare = replace(config, train=replace(config.train, steps=10))
    text = describe_roaming(resolve_run(rare, data, read_machine(1), None, None)).text
    assert "too seldom for a route to try all units of every layer, which takes 16 moves" in text


def test_what_masks_have_in_common(config: Config, data: RunData) -> None:
    for strategy, levels in (("random", ["ok"]), ("partition", ["ok"]), ("affinity", ["note", "ok"])):
        routing = RoutingConfig(sigma=0.5, routes=2, strategy=strategy)  # type: ignore[arg-type]
        asked = replace(config, routing=routing)
        findings = list(check_masks(asked, build_routes(asked, data, None, None)))
        assert [finding.level for finding in findings] == levels
        assert f"Strategy {strategy}: " in findings[-1].text
        assert "Two routes have " in findings[-1].text
        assert ("50.0% of the " in findings[-1].text) == (strategy != "partition")
    asked = replace(config, routing=RoutingConfig(sigma=1.0, routes="one"))
    [finding] = check_masks(asked, build_routes(asked, data, None, None))
    assert "A route has 100.0% of the" in finding.text


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
    findings = check_tracking(config, ask=False, file_system_of=lambda _: "nfs4")
    assert "server with PostgreSQL" in complaints(findings)[0].remedy


def test_file_systems_are_found() -> None:
    assert file_system_of(Path("/proc/no/such/file")) == "proc"


@pytest.mark.parametrize("uri", ["databricks", "databricks-uc", "databricks://profile"])
def test_databricks_is_no_folder(uri: str, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert [(finding.level, finding.text) for finding in check_tracking(config, ask=True)] == [
        ("note", "Databricks: not checked.")
    ]


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


SCONTROL = "#!/bin/sh\necho JobId=7 JobName=x Requeue={requeue} EndTime={end} TimeLimit=00:10:00\n"


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program `scontrol`, first in the PATH, that a test writes."""
    path = tmp_path / "bin" / "scontrol"
    path.parent.mkdir()
    path.touch(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return path


def test_a_time_limit_below_the_checkpoint_interval(config: Config, scontrol: Path) -> None:
    config.run.folder.mkdir(parents=True)
    record = json.dumps({"step": 10, "time": 1.0, "train/step_s": 2.0})
    (config.run.folder / "metrics.jsonl").write_text(f"{record}\n")
    scontrol.write_text(SCONTROL.format(requeue=0, end="2000-01-01T00:00:00"))
    found = complaints(check_job(config, {"SLURM_JOB_ID": "7"}))
    assert "`checkpoint.every` 500 steps take 1,000 s at 2 s a step" in found[0].text
    assert found[0].remedy == "Set it to at most 1, or ask for more time."
    assert "not requeued" in found[1].text
    assert "MATL_STOP_FILE is not set" in found[2].text
    scontrol.write_text(SCONTROL.format(requeue=1, end="2999-01-01T00:00:00"))
    stop = str(config.run.folder / "stop")
    assert not complaints(check_job(config, {"SLURM_JOB_ID": "7", "MATL_STOP_FILE": stop}))


def test_scontrol_is_missing(config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert complaints(check_job(config, {"SLURM_JOB_ID": "7"}))[0].text == "scontrol cannot be asked about this job."


def test_interval_and_limit() -> None:
    assert find_interval_problem(500, 2.0, None) is None
    assert find_interval_problem(500, 2.0, 1000.0) is None
    assert "Set it to at most 50" in str(find_interval_problem(500, 2.0, 400.0))


def test_versions() -> None:
    assert not complaints(check_versions())
    required = list(
        map(Requirement, ("mlflow>=3.13,<4", "numpy>=1.26", "pillow>=10", "torch>=2.6", "no-such-package>=1"))
    )
    installed = {"mlflow": "4.0", "numpy": "1.9", "pillow": "12.0.1", "torch": "2.13.0+cpu", "torchvision": "0.28.0"}

    def version_of(name: str) -> str:
        if name not in installed:
            raise PackageNotFoundError(name)
        return installed[name]

    texts = [finding.text for finding in complaints(check_versions(required, version_of))]
    assert texts == ["mlflow 4.0 is not <4,>=3.13.", "numpy 1.9 is not >=1.26.", "no-such-package is not installed."]
    assert check_torchvision("2.13.0+cpu", "0.28.0").level == "ok"
    assert check_torchvision("2.12.1", "0.28.0").level == "error"
