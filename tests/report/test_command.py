"""`matl-report` from the command line: what is printed and written, and how wrong input is refused."""

import io
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from helpers.commands import refuse_report
from helpers.made_up_runs import MadeUp
from helpers.made_up_runs import write_run as write_made_up_run
from helpers.report_runs import (
    LABELS,
    SKILL_A,
    SKILL_B,
    TASKS,
    Write,
    draw_predictions,
    measure,
    write_run,
    write_single_runs,
)
from matl_scale.report.__main__ import main
from matl_scale.report.as_json import run_to_json
from matl_scale.report.comparison.results import Question, Results
from matl_scale.report.comparison.runs import compare_runs
from matl_scale.report.facts import collect_facts
from matl_scale.report.open_runs import open_runs
from matl_scale.report.page.run_summary import build_overview, build_tiles
from matl_scale.report.page.task_table import build_task_table
from matl_scale.report.terminal.run import print_run
from matl_scale.runs.history import RunHistory
from matl_scale.runs.records import LocalLog
from matl_scale.tasks import Task
from matl_scale.tracking.mlflow_views import write_description


def test_without_single_task_runs_the_command_is_named(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [Task(name="it's a/b", classes=("no", "yes"))]
    shared = write("shared", tasks=[*tasks, *TASKS[1:]], config={"run": {"dir": "elsewhere"}, "eval": {"split": "val"}})
    error = refuse_report([str(shared), "--baseline", "single-task"], capsys)
    assert "--data.tasks 'it'\"'\"'s a/b' --run.name 'single-it'\"'\"'s a_b' --run.dir" in error
    assert "&& matl-evaluate --run" in error
    assert "--split test" in error


def test_one_run_is_summarised(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = LABELS.copy()
    labels[:, 0] = np.where(labels[:, 0] < 0, -1, 1)
    labels[:, 1] = -1
    run = write("one", labels=labels, step=200)
    earlier = measure(TASKS, labels, draw_predictions(labels, TASKS, 0.5, 3))
    names, latest = [task.name for task in TASKS], RunHistory(run).latest("test").metrics
    LocalLog(run).log_per_task(100, "test", names, earlier)
    LocalLog(run).log_per_task(200, "test", names, latest)  # made last
    assert main([str(run), "--json", str(tmp_path / "one.json")]) == 0
    shown = capsys.readouterr().out
    for text in (
        "one: test after 200 steps, 3 tasks",
        "greatest gains in balanced accuracy since step 100",
        "only class `yes` occurs, so no balanced accuracy, AUROC: better",
        "no labelled sample, so no accuracy, balanced accuracy, AUROC, average precision, precision: worse",
        "draws per task: least better 0, worse 200, same 400; most kind 600, same 400, worse 200",
    ):
        assert text in shown
    content = json.loads((tmp_path / "one.json").read_text())["run"]
    assert [task["task"] for task in content["tasks"]] == [task.name for task in TASKS]
    assert content["tasks"][1]["metrics"]["accuracy"] is None
    assert content["tasks"][0]["undefined"]["reason"] == "only class `yes` occurs"
    expected = RunHistory(run).latest("test").metrics
    assert content["tasks"][3]["metrics"]["balanced_accuracy"] == expected.values["balanced_accuracy"][3]
    assert content["summary"]["macro_accuracy"] == expected.summary()["macro_accuracy"]


def test_means_leave_out_tasks_with_few_samples_of_a_class(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run's config says how few; an option says otherwise."""
    labels = LABELS.copy()
    labels[labels[:, 1] > 0, 1] = -1
    labels[:3, 1] = 1  # three samples of one class
    run = write("one", labels=labels, config={"eval": {"min_count": 20}})
    other = write("two", SKILL_B, 1, labels=labels, config={"eval": {"min_count": 20}})
    metrics = RunHistory(run).latest("test").metrics
    chosen, [worse] = [0, 2, 3], [1]
    assert metrics.values["smallest_class"][worse] == 3
    said = "means over 3 of 4 tasks: at least 20 samples of each class"
    for arguments, tasks in (([], chosen), (["--min-count", "3"], range(4)), (["--min-count", "0"], range(4))):
        page, content = tmp_path / "one.html", tmp_path / "one.json"
        assert main([str(run), *arguments, "--json", str(content), "--out", str(page)]) == 0
        shown, limited = capsys.readouterr().out, len(tasks) < 4
        mean = metrics.values["balanced_accuracy"][list(tasks)].mean()
        assert re.search(rf"^mean +{mean:.4f} ", shown, re.MULTILINE)
        assert (said in shown) == (said in page.read_text(encoding="utf-8")) == limited
        found = json.loads(content.read_text())["run"]
        assert found["summary"]["macro_balanced_accuracy"] == pytest.approx(mean)
        assert found["summary"]["tasks_in_means"] == len(tasks)
        assert [task["in_means"] for task in found["tasks"]] == [i in tasks for i in range(4)]
        assert "worse" in shown  # among the worst tasks all the same
    assert main([str(run), str(other), "--json", str(tmp_path / "two.json")]) == 0
    [comparison] = json.loads((tmp_path / "two.json").read_text())["comparisons"]
    assert comparison["min_count"] == 20
    assert [task["smallest_class"] >= 20 for task in comparison["tasks"]] == [True, False, True, True]
    capsys.readouterr()
    assert "`--min-count` should be at least 0. Got -1." in refuse_report([str(run), "--min-count", "-1"], capsys)


def test_metrics_of_decisions_stand_beside_those_at_argmax(tmp_path: Path) -> None:
    """In the terminal, in MLflow, on the page and in JSON."""
    made_up = MadeUp(num_tasks=6, num_samples=300, num_evaluations=2, decided=True)
    history = write_made_up_run(tmp_path / "run", made_up)
    facts, console = collect_facts(history, "test"), Console(width=160, record=True, file=io.StringIO())
    print_run(console, facts, 10)
    shown, summary = console.export_text(), facts.latest.metrics.summary()
    both = r"balanced accuracy +decided balanced accuracy"
    assert re.search(rf"over tasks +{both} .* ECE", shown)
    assert re.search(rf"task +positive +samples +{both} ", shown)
    for key in ("macro_decided_balanced_accuracy", "p10_decided_balanced_accuracy", "macro_ece"):
        assert f"{summary[key]:.4f}" in shown
        assert f"{summary[key]:.4f}" in write_description(history)
    tiles = {tile.label: tile for tile in build_tiles(facts)}
    assert tiles["mean decided balanced accuracy"].value == f"{summary['macro_decided_balanced_accuracy']:.3f}"
    assert f"mean ECE {summary['macro_ece']:.3f}" in tiles["mean decided balanced accuracy"].detail
    overview = dict(build_overview(facts))
    assert overview["Brier score"] == [f"{summary['macro_brier']:.3f}", "", "", ""]
    assert overview["decided balanced accuracy"][3] == f"{summary['worst_decided_balanced_accuracy']:.3f}"
    titles = [column.title for column in build_task_table(facts).columns]
    assert {"decided balanced accuracy", "decided F1", "ECE", "Brier score"} < set(titles)
    assert run_to_json(facts)["summary"]["macro_decided_f1"] == summary["macro_decided_f1"]


def test_without_predictions_the_reason_names_no_class(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    labels = LABELS.copy()
    labels[:, 0] = 1
    run = write("one", labels=labels)
    (run / "predictions-test.parquet").unlink()
    assert main([str(run), "--tasks", "better"]) == 0
    shown = capsys.readouterr().out
    assert "only one class occurs, so no balanced accuracy, AUROC: better" in shown
    assert "test was evaluated once" in shown


def test_a_positive_that_is_never_predicted_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "one", TASKS[:1], LABELS[:, :1], np.where(LABELS[:, :1] < 0, -1, 0))
    assert main([str(tmp_path / "one")]) == 0
    assert "the positive class is never predicted, so no precision: better" in capsys.readouterr().out


def test_a_comparison_is_shown_and_written(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = LABELS.copy()
    labels[:, 2] = -1
    a, b = write("a", SKILL_A, labels=labels), write("b", SKILL_B, 1, labels=labels, sigma=1.0)
    assert main([str(a), str(b), "--json", str(tmp_path / "c.json"), "--limit", "1"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "A: a (step 100)", "B: b (step 100)", "improved 1: better", "unchanged 1: kind", "regressed 1: worse",
        "undefined 1: same", "95 % interval", "adjusted p", "same is undefined: no labelled sample",
        "the configs differ in: 2", "and 1 more",
    ):  # fmt: skip
        assert text in shown
    [content] = json.loads((tmp_path / "c.json").read_text())["comparisons"]
    assert content["counts"] == {"improved": 1, "unchanged": 1, "regressed": 1, "undefined": 1}
    [expected], _ = compare_runs(open_runs([a, b]), Question(split="test", metric="balanced_accuracy", alpha=0.05))
    p = {task.task: task.p for task in expected.tasks}
    for task in content["tasks"]:
        assert task["p"] == (None if task["verdict"] == "undefined" else p[task["task"]])
    assert len(content["tasks"]) == 4


def test_seeds_are_shown_and_written(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(write(f"s{seed}", 0.8, seed)) for seed in range(3)]
    assert main([*runs, "--json", str(tmp_path / "s.json"), "--metric", "accuracy"]) == 0
    assert "3 runs of one config on test, accuracy" in capsys.readouterr().out
    spread = json.loads((tmp_path / "s.json").read_text())["spread"]
    assert [task["task"] for task in spread["tasks"]] == [task.name for task in TASKS]
    assert len(spread["tasks"][0]["values"]) == 3


def test_the_baseline_is_shown(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(write_single_runs(write)), "--baseline", "single-task"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "A: one network per task: ",
        "sharing helped 1: better",
        "sharing hurt 1: worse",
        "not compared: 1",
        "--run.name single-kind",
    ):
        assert text in shown


def test_the_page_gets_the_results(write: Write, tmp_path: Path) -> None:
    calls: list[tuple[Path, Results, Sequence[str]]] = []
    a, b = write("a"), write("b", seed=1)
    arguments = [str(a), str(b), "--out", str(tmp_path / "page.html"), "--tasks", "s*", "kind"]
    assert main(arguments, lambda *given: calls.append(given)) == 0
    [(path, results, patterns)] = calls
    assert path == tmp_path / "page.html"
    assert [run.name for run in results.runs] == ["a", "b"]
    assert results.spread is not None
    assert (results.split, patterns, results.spread.tasks) == ("test", ["same", "kind"], ["same", "kind"])
    assert len(results.comparisons) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        # options are checked before a run is read
        (["nowhere", "--out", "no/such/folder/page.html"], "`--out` .* cannot be written: there is no folder"),
        (["nowhere", "--json", "a"], "`--json` should be a file"),
        (["nowhere", "--alpha", "1.5"], "`--alpha` should be between 0 and 1"),
        (["nowhere", "--limit", "0"], "`--limit` should be at least 1"),
        (["nowhere", "b", "--baseline", "single-task"], "`--baseline` should be asked of one RUN"),
        (["a", "a/../a"], "is given twice"),
        (["nowhere"], "is not a run: it has no config.yaml"),
        (["untrained"], "was never evaluated"),
        (["damaged"], "per_task.parquet cannot be read"),
        (["a", "--split", "tset"], "was not evaluated on split `tset`, only on test.* Did you mean `test`"),
        (["a", "--tasks", "bettr"], "Did you mean `better`"),
        (["a", "b", "--tasks", "bettr"], "Did you mean `better`"),
        (["a", "unpredicted"], "predictions-test.parquet is not there: evaluate the run"),
        (["a", "unconfigured"], "config.yaml cannot be read"),
        (["a", "garbled"], "config.yaml cannot be read"),
        (["a", "elsewhere"], "other images"),
    ],
)
def test_bad_input_is_one_line(
    write: Write,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    text: str,
) -> None:
    for name in ("a", "b", "damaged", "unpredicted", "unconfigured", "garbled"):
        write(name)
    write("elsewhere", test_set="others")
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained/config.yaml").write_text("run: {name: untrained}\n")
    next((tmp_path / "damaged/per_task.parquet").iterdir()).write_bytes(b"PAR1 and no more")
    (tmp_path / "unpredicted/predictions-test.parquet").unlink()
    (tmp_path / "unconfigured/config.yaml").unlink()
    (tmp_path / "garbled/config.yaml").write_text("run: [\n")
    monkeypatch.chdir(tmp_path)
    assert re.search(text, refuse_report(arguments, capsys))


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "plotly", None)
    assert refuse_report(["nowhere", "--out", str(tmp_path / "page.html")], capsys) == (
        "matl-report: error: The page of `--out` needs `plotly`, not installed here. Install with: "
        "pip install 'matl-scale[report]'\n"
    )


def test_an_existing_page_is_not_touched_by_a_failure(
    write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "page.html").write_text("unchanged")
    refuse_report([str(write("a")), "--tasks", "nothing", "--out", str(tmp_path / "page.html")], capsys)
    assert (tmp_path / "page.html").read_text() == "unchanged"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "page.html"]
