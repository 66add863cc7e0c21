"""The commands as a user types them: `accelerate launch`, plain python, evaluation, and what MLflow shows afterwards."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from helpers.decision_rules import slow_decisions, slow_probabilities
from helpers.shard_sets import ShardSet
from matl_scale import InputError
from matl_scale.models.network import normalise
from matl_scale.models.predictor import Predictor
from matl_scale.runs.checkpoints.decisions import open_decisions
from matl_scale.runs.checkpoints.network import open_network, restore_network
from matl_scale.tracking.sync import main as sync

ROOT = Path(__file__).parents[2]
SETTINGS = [
    "--data.batch_size", "6", "--data.workers", "1", "--routing.sigma", "0.5", "--model.width", "0.0625", "--model.stem", "small",
    "--train.steps", "6", "--train.precision", "bf16", "--eval.every", "3", "--checkpoint.every", "4",
    "--track.every", "2", "--track.curves", "task_0", "--data.augment", "randaugment",
]  # fmt: skip
METRICS = {
    "loss", "accuracy", "balanced_accuracy", "precision", "recall", "f1", "auroc", "average_precision",
    "majority_accuracy", "baseline_p", "smallest_class", "decided_accuracy", "decided_balanced_accuracy",
    "decided_precision", "decided_recall", "decided_f1", "ece", "brier",
}  # fmt: skip


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW")}
    environment["OMP_NUM_THREADS"] = "1"
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_set: ShardSet) -> tuple[Path, str]:
    """A run on two ranks, started as the README says; returns its folder and what it printed."""
    runs = tmp_path_factory.mktemp("runs")
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "launch/accelerate/cpu.yaml"]
    result = run(
        *launcher,
        "launch/train.py",
        "--run.dir",
        str(runs),
        "--run.name",
        "first",
        "--data.path",
        str(small_set.root),
        *SETTINGS,
    )
    assert result.returncode == 0, result.stderr
    return runs / "first", result.stdout


def test_run_folder(finished: tuple[Path, str]) -> None:
    folder, output = finished
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["train"]["steps"] == 6
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records if "train/loss" in record] == [2, 4, 6]
    assert [record["step"] for record in records if "val/macro_auroc" in record] == [3, 6]
    history = pq.read_table(folder / "per_task.parquet")
    assert history.column_names == ["step", "split", "task", "metric", "value", "count"]
    assert history.num_rows == 2 * 6 * len(METRICS)
    assert set(history["metric"].to_pylist()) == METRICS
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000000004", "step-000000006"]
    assert "tasks not better than the baseline beyond chance" in output
    assert "mlflow ui --backend-store-uri sqlite:///" in output


# mlflow and what it imports warn about each other
@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_one_finished_run_with_few_keys_and_the_table(
    finished: tuple[Path, str], small_set: ShardSet
) -> None:
    from mlflow import MlflowClient

    folder, _ = finished
    client = MlflowClient(f"sqlite:///{folder.parent}/mlflow.db")
    experiment = client.get_experiment_by_name("matl_scale")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 1
    found = runs[0]
    assert found.info.status == "FINISHED"
    assert sum(not name.startswith("task/") for name in found.data.metrics) <= 45  # beside the chosen curves
    assert "task/task_0/auroc" in found.data.metrics
    assert found.data.params["routing.sigma"] == "0.5"
    local = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    history = client.get_metric_history(found.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(r["step"], r["train/loss"]) for r in local if "train/loss" in r]
    names = {artifact.path for artifact in client.list_artifacts(found.info.run_id)}
    assert {"config.yaml", "per_task.parquet", "per_task.json", "per_task.png"} <= names
    table = json.loads((folder.parent / "mlartifacts" / found.info.run_id / "artifacts/per_task.json").read_text())
    assert len(table["data"]) == 6
    assert json.loads(found.data.tags["mlflow.loggedArtifacts"]) == [{"path": "per_task.json", "type": "table"}]
    assert found.data.tags["mlflow.note.content"].startswith("**val after 6 steps: 6 tasks")
    assert found.inputs.dataset_inputs[0].dataset.digest == small_set.manifest.id[:36]
    assert found.data.params["manifest_id"] == small_set.manifest.id


@pytest.mark.filterwarnings("ignore")
def test_the_best_network_is_a_model_that_mlflow_loads(finished: tuple[Path, str]) -> None:
    import mlflow

    folder, _ = finished
    mlflow.set_tracking_uri(f"sqlite:///{folder.parent}/mlflow.db")
    model_id = json.loads((folder / "mlflow.json").read_text())["model_id"]
    model = mlflow.MlflowClient().get_logged_model(model_id)
    assert model.artifact_location.startswith((folder.parent / "mlartifacts").as_uri())
    assert mlflow.get_experiment(model.experiment_id).name == "matl_scale"
    loaded = mlflow.pyfunc.load_model(f"models:/{model_id}")
    checkpoint = open_network(folder)
    model, decisions = restore_network(checkpoint, torch.device("cpu")), open_decisions(checkpoint)
    assert decisions.info.split == "val"
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    predictor = Predictor(model, "subnetwork", route_chunk=64)
    predictor.start()
    for task_id, task in enumerate(checkpoint.classes):
        expected = predictor.logits_of_tasks(normalise(torch.from_numpy(images)), [task_id])[task_id].numpy()
        logits, probabilities, decided = (
            loaded.predict(images, params={"task": task, "output": output})
            for output in ("logits", "probabilities", "decisions")
        )
        np.testing.assert_array_equal(logits, expected)
        np.testing.assert_allclose(probabilities, slow_probabilities(decisions.rules[task], expected), atol=1e-6)
        assert decided[:, 0].tolist() == slow_decisions(decisions.rules[task], expected)
        np.testing.assert_array_equal(loaded.predict(images, params={"task": task}), probabilities)
    with pytest.raises(InputError, match="Did you mean `task_3`"):
        loaded.predict(images, params={"task": "tusk_3"})
    with pytest.raises(Exception, match="shape"):
        loaded.predict(images[:, :, :8], params={"task": "task_3"})


# mlflow and what it imports warn about each other
@pytest.mark.filterwarnings("ignore")
def test_sync_copies_a_run_to_a_store_of_its_own_once(
    finished: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    folder = shutil.copytree(finished[0], tmp_path / "copied")
    uri = f"sqlite:///{tmp_path}/other.db"
    assert sync([str(folder), "--tracking-uri", uri]) == 0
    assert sync([str(folder)]) == 0
    assert "nothing was missing" in capsys.readouterr().out.splitlines()[-1]
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("matl_scale").experiment_id])
    assert [run.info.status for run in found] == ["FINISHED"]
    local = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for key in ("train/loss", "val/macro_auroc"):
        history = [(m.step, m.value) for m in client.get_metric_history(found[0].info.run_id, key)]
        assert history == [(record["step"], record[key]) for record in local if key in record]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "is not a run: it has no config.yaml"),
        (["RUN", "--tracking-uri", "http://127.0.0.1:9"], "is not available: "),
    ],
)
def test_sync_says_in_one_line_what_is_wrong(
    finished: tuple[Path, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = shutil.copytree(finished[0], tmp_path / "copied")
    with pytest.raises(SystemExit) as ended:
        sync([str(folder) if word == "RUN" else word for word in arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_runs_config_can_be_given_back_and_a_finished_run_is_not_repeated(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = (folder / "metrics.jsonl").read_text()
    result = run(sys.executable, "launch/train.py", "--config", str(folder / "config.yaml"))
    assert result.returncode == 0, result.stderr
    assert "is complete: 6 of 6 steps" in result.stderr
    assert (folder / "metrics.jsonl").read_text() == before


def test_evaluate_adds_a_split(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    result = run(
        sys.executable, "launch/evaluate.py", "--run", str(folder), "--split", "train", "--checkpoint", "newest"
    )
    assert result.returncode == 0, result.stderr
    assert "train after 6 steps, 6 tasks" in result.stdout
    history = pq.read_table(folder / "per_task.parquet").to_pylist()
    assert {row["split"] for row in history} == {"val", "train"}
    rare = next(
        row for row in history if row["split"] == "train" and row["task"] == "task_5" and row["metric"] == "loss"
    )
    assert rare["count"] == 3


BAD = {
    "unknown key": (["--train.step", "5"], "Did you mean `train.steps`?"),
    "other masks": (["--routing.sigma", "0.25", "--train.steps", "9"], "other routing masks than this config draws"),
    "other statistics": (["--routing.statistics", "shared", "--train.steps", "9"], "`routing.statistics`"),
    "images too small": (
        ["--run.name", "new", "--model.name", "vgg11", "--model.stem", "standard"],
        "does not run on images of 16 pixels",
    ),
    "curves of nothing": (["--run.name", "new", "--track.curves", "tusk_1"], "Did you mean `task_1`?"),
    "not empty": (["--run.resume", "never"], "is not empty"),
    "sigma too small": (["--run.name", "new", "--routing.sigma", "0.01"], "keeps no unit of layer"),
    "no such split": (["--run.name", "new", "--eval.split", "vall"], "Did you mean `val`?"),
    "no such task": (["--run.name", "new", "--data.tasks", "tusk_1"], "Did you mean `task_1`?"),
    "no shard set": (["--run.name", "new", "--data.path", "launch"], "is not a shard set"),
    "fp16": (["--run.name", "new", "--train.precision", "fp16"], "without a GPU"),
}


@pytest.fixture(scope="module")
def refusals(finished: tuple[Path, str], small_set: ShardSet) -> dict[str, tuple[int, str]]:
    """Starts `train.py` once for all cases: one process, many calls of `main`, because importing torch takes long."""
    folder, _ = finished
    common = ["--run.dir", str(folder.parent), "--run.name", "first", "--data.path", str(small_set.root), *SETTINGS]
    script = f"""
import contextlib, io, json, runpy, sys
sys.path.insert(0, "launch")
results = {{}}
for name, extra in {[(name, extra) for name, (extra, _) in BAD.items()]!r}:
    sys.argv = ["train.py", *{common!r}, *extra]
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        try:
            runpy.run_path("launch/train.py", run_name="__main__")
            code = 0
        except SystemExit as stop:
            code = stop.code
    results[name] = (code, error.getvalue())
print(json.dumps(results))
"""
    result = run(sys.executable, "-c", script)
    assert result.returncode == 0, result.stderr
    return {name: tuple(outcome) for name, outcome in json.loads(result.stdout.splitlines()[-1]).items()}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_code_2(
    case: str, refusals: dict[str, tuple[int, str]], finished: tuple[Path, str]
) -> None:
    code, error = refusals[case]
    assert code == 2
    assert error.count("\n") == 1, error
    assert BAD[case][1] in error
    assert not (finished[0].parent / "new").exists()
