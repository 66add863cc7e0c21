"""Every command reads a shard set and a finished run that were written in November 2026: `tests/data/old`, never rewritten."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from data_prep.__main__ import main as matl_data
from matl_scale.commands.evaluate import main as matl_evaluate
from matl_scale.commands.export import main as matl_export
from matl_scale.commands.predict import main as matl_predict
from matl_scale.commands.train import main as matl_train
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.doctor.__main__ import main as matl_doctor
from matl_scale.metrics.names import DECIDED_METRICS
from matl_scale.report.__main__ import main as matl_report
from matl_scale.routes import Routes
from matl_scale.runs.checkpoints.checkpoint import open_checkpoint
from matl_scale.runs.predictions import read_predictions
from matl_scale.runs.routes import read_routes

OLD = Path(__file__).parents[1] / "data/old"
TASKS = ["bright", "colour", "blue", "dark"]
RUN = Path("runs/old")


@pytest.fixture(autouse=True)
def _copy_as_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths in the run's config are relative to the folder in which it was trained."""
    shutil.copytree(OLD, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def arguments(*words: object) -> list[str]:
    return [str(word) for word in words]


def read_values(step: int) -> dict[tuple[str, str], tuple[float | None, int]]:
    """Returns the recorded value and count of each task and metric at a step, on the validation split."""
    lines = pq.read_table(RUN / "per_task.parquet", filters=[("step", "=", step), ("split", "=", "val")]).to_pylist()
    values = {(line["task"], line["metric"]): (line["value"], line["count"]) for line in lines}
    assert len(values) == len(lines)
    return values


def read_records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_shard_set_is_described_and_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_data(["info", "set"]) == 0
    described = capsys.readouterr().out
    for task in TASKS:
        assert task in described
    for split, images in (("train", 48), ("val", 12), ("test", 12)):
        assert f"{split}: {images} images in 1 shard," in described
    assert "→ version 2, id f384c8106eb4: added 1 tasks: dark" in described
    assert matl_data(["verify", "set"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    assert read_manifest("set").task_names == TASKS
    assert read_manifest("set", "1").task_names == TASKS[:3]


@pytest.mark.parametrize(("which", "step"), [("best", 20), ("newest", 40)])
def test_an_evaluation_gives_the_values_recorded_then(which: str, step: int) -> None:
    before, predictions = read_values(step), pq.read_table(RUN / "predictions-val.parquet")
    old = read_predictions(RUN / "predictions-val.parquet")
    assert old.log_odds is None
    assert {task for task, _ in before} == set(TASKS)
    assert matl_evaluate(["--run", str(RUN), "--checkpoint", which]) == 0
    after = read_values(step)
    new_metrics = (*DECIDED_METRICS, "baseline_p", "smallest_class")  # today's version knows more
    added = {(task, metric) for task in TASKS for metric in new_metrics}
    assert after.keys() == before.keys() | added
    for key, (value, count) in before.items():
        assert after[key] == (None if value is None else pytest.approx(value, rel=1e-5), count), key
    if which == "newest":
        again = pq.read_table(RUN / "predictions-val.parquet")
        assert again.drop(["log_odds"]).equals(predictions.drop(["confidences"]))
        confidences = read_predictions(RUN / "predictions-val.parquet").confidences
        np.testing.assert_allclose(confidences, old.confidences, atol=0.002)  # float16, now and then


def test_predictions_are_those_of_the_evaluation() -> None:
    assert matl_predict(arguments("--run", RUN, "--images", "set", "--checkpoint", "newest", "--out", "p.parquet")) == 0
    lines = pq.read_table("p.parquet").to_pylist()
    assert len(lines) == 72 * len(TASKS)
    found = {(int(Path(line["image"]).stem), line["task"]): line["prediction"] for line in lines}
    saved = read_predictions(RUN / "predictions-val.parquet")
    assert saved.predicted.shape == (12, len(TASKS))
    for sample, predicted in zip(saved.samples.tolist(), saved.predicted.tolist(), strict=True):
        for task, label in zip(saved.info.tasks, predicted, strict=True):
            assert label == -1 or found[sample, task.name] == task.classes[label]


@pytest.mark.parametrize(("kind", "suffix"), [("safetensors", ".safetensors"), ("torch.export", ".pt2")])
def test_sub_networks_are_exported(kind: str, suffix: str) -> None:
    assert matl_export(arguments("--run", RUN, "--task", "*", "--format", kind)) == 0  # compares logits
    assert sorted(path.stem for path in (RUN / "export").glob(f"*{suffix}")) == sorted(TASKS)


def test_the_report_has_the_numbers_recorded_then() -> None:
    assert matl_report(arguments(RUN, "--json", "report.json", "--out", "report.html")) == 0
    run = json.loads(Path("report.json").read_text(encoding="utf-8"))["run"]
    last = next(record for record in reversed(read_records(RUN)) if "val/macro_loss" in record)
    recorded = {key.removeprefix("val/"): value for key, value in last.items() if key.startswith("val/")}
    assert run["step"] == last["step"] == 40
    # its version compared with the constant answer without a test, and did not count the smallest class
    assert (recorded.pop("tasks_below_baseline"), run["summary"].pop("tasks_not_learned")) == (2, None)
    assert run["summary"].pop("tasks_in_means") == recorded["tasks_evaluated"]
    assert run["summary"] == pytest.approx(recorded)
    assert [task["task"] for task in run["tasks"]] == TASKS
    page = Path("report.html").read_text(encoding="utf-8")
    assert "data:image/" in page  # worst samples, read from the shard set


def test_the_finished_run_is_complete_and_goes_on_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    config = ("--config", RUN / "config.yaml")
    assert matl_train(arguments(*config)) == 0
    assert "is complete: 40 of 40 steps" in capsys.readouterr().err
    assert matl_train(arguments(*config, "--train.steps", 44, "--track.every", 2)) == 0
    steps = [record["step"] for record in read_records(RUN) if "train/loss" in record]
    assert steps == [10, 20, 30, 40, 42, 44]
    assert open_checkpoint(RUN).step == 44
    # its version knew no `routing.routes`: every task had a route of its own, and keeps it
    assert open_checkpoint(RUN).routes == Routes.one_per_task(TASKS)
    assert read_routes(RUN / "routes.parquet") == {task: [task] for task in TASKS}
    assert yaml.safe_load((RUN / "config.yaml").read_text(encoding="utf-8"))["routing"]["routes"] == "task"
    with pytest.raises(SystemExit):
        matl_train(arguments(*config, "--train.steps", 48, "--routing.routes", 2))
    assert "has 4 routes for 4 tasks, and `routing.routes` asks for other ones" in capsys.readouterr().err


def test_the_doctor_examines_its_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_doctor(arguments("--config", RUN / "config.yaml", "--ranks", 1)) == 0
    assert "4 routes for 4 tasks" in capsys.readouterr().out


def test_a_new_run_starts_from_its_network() -> None:
    more = ("--run.name", "new", "--run.start_from", RUN, "--train.steps", 2, "--track.every", 1)
    assert matl_train(arguments("--config", RUN / "config.yaml", *more)) == 0
    losses = [record["train/loss"] for record in read_records(Path("runs/new")) if "train/loss" in record]
    assert len(losses) == 2
