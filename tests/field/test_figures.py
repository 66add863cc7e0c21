"""Reports whose figures could not be read: names that are too long or that terminals and pages interpret, figures of an unnamed
class, networks that answer by chance."""

import io
import json
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH
from rich.cells import cell_len
from rich.console import Console

from data_prep.__main__ import main as matl_data
from helpers.report_runs import binary_tasks, draw_labels, draw_predictions, write_run
from helpers.shard_sets import ShardSet
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.display import printable, shorten_middle
from matl_scale.metrics.names import POSITIVE_NOTE, TASK_COLUMNS
from matl_scale.metrics.task_metrics import describe_not_learned
from matl_scale.report.__main__ import main as report
from matl_scale.report.as_json import run_to_json
from matl_scale.report.facts import RunFacts, collect_facts
from matl_scale.report.page.run_summary import build_tiles
from matl_scale.report.page.task_figures import draw_scatters
from matl_scale.report.page.task_table import build_task_table, explain_columns
from matl_scale.report.terminal.run import print_run
from matl_scale.runs.history import RunHistory
from matl_scale.tasks import Task
from matl_scale.tracking.mlflow_views import draw_heatmap, latest_table, run_tags, write_description


def print_report(facts: RunFacts, width: int = 160) -> str:
    """Returns what a terminal of some width shows of a run."""
    shown = io.StringIO()
    print_run(Console(width=width, file=shown), facts, 10)
    return shown.getvalue()


# "all tasks at 50 %, and the tool says that none is below the baseline": the network always gives one answer


NOT_LEARNED = "not better than the baseline beyond chance"


@pytest.mark.parametrize("num_samples", [3, 7, 49, 1000])
def test_a_network_with_one_answer_has_learned_no_task(tmp_path: Path, num_samples: int) -> None:
    tasks = binary_tasks(*(f"task {i}" for i in range(50)))
    labels = draw_labels(num_samples, tasks, missing=0.0)
    labels[:2] = [[0], [1]]
    frequent = (labels.mean(axis=0) > 0.5).astype(labels.dtype)
    write_run(tmp_path / "run", tasks, labels, np.broadcast_to(frequent, labels.shape).copy())
    history = RunHistory(tmp_path / "run")
    facts = collect_facts(history, "test")
    names = ", ".join(f"task {i}" for i in range(10)) + " and 40 more"
    expected = f"{NOT_LEARNED}: 50 of 50"
    assert describe_not_learned(facts.latest.metrics) == expected
    assert f"tasks {expected}: {names}" in print_report(facts)
    assert f"{expected}**" in write_description(history)
    assert f"Tasks {expected}: {names}" in write_description(history)
    tile = next(tile for tile in build_tiles(facts) if tile.label == f"tasks {NOT_LEARNED}")
    assert (tile.value, tile.mark) == ("50", "bad")
    assert tile.detail == "of 50 with two classes in the split: task 0, task 1, task 2 and 47 more"
    assert all(NOT_LEARNED in str(row[-1]) for row in build_task_table(facts).rows)
    content = run_to_json(facts)
    assert content["summary"]["tasks_not_learned"] == 50
    assert all(task["not_learned"] for task in content["tasks"])


def test_answers_by_chance_are_not_called_better(tmp_path: Path) -> None:
    """Some have an accuracy above that of the constant answer, by luck; one task is learned."""
    tasks = binary_tasks(*(f"task {i}" for i in range(50)), "learned")
    labels = draw_labels(200, tasks, missing=0.0)
    skill = np.array([0.5] * 50 + [0.9])
    write_run(tmp_path / "run", tasks, labels, draw_predictions(labels, tasks, skill, 1))
    facts = collect_facts(RunHistory(tmp_path / "run"), "test")
    values = facts.latest.metrics.values
    assert (values["accuracy"][:50] > values["majority_accuracy"][:50]).sum() > 5
    assert f"tasks {NOT_LEARNED}: 50 of 51: task 0" in print_report(facts)
    assert [task["task"] for task in run_to_json(facts)["tasks"] if not task["not_learned"]] == ["learned"]


def test_tasks_without_two_classes_are_not_counted(tmp_path: Path) -> None:
    tasks = binary_tasks("known", "unknown", "one class")
    labels = np.array([[0, -1, 1], [1, -1, 1], [0, -1, 1]])
    write_run(tmp_path / "run", tasks, labels, np.where(labels < 0, -1, 0))
    facts = collect_facts(RunHistory(tmp_path / "run"), "test")
    assert f"tasks {NOT_LEARNED}: 1 of 1: known\n" in print_report(facts)
    assert [task["not_learned"] for task in run_to_json(facts)["tasks"]] == [True, None, None]


def test_runs_of_earlier_versions_say_that_the_baseline_is_not_known() -> None:
    history = RunHistory(Path(__file__).parents[1] / "data/old/runs/old")
    facts = collect_facts(history, "val")
    assert f"tasks {NOT_LEARNED}: not known, as an earlier version evaluated\n" in print_report(facts)
    assert f"{NOT_LEARNED}: not known" in write_description(history)
    tile = next(tile for tile in build_tiles(facts) if tile.label == f"tasks {NOT_LEARNED}")
    assert (tile.value, tile.mark) == ("", "")
    assert not any(NOT_LEARNED in str(row[-1]) for row in build_task_table(facts).rows)
    assert run_to_json(facts)["summary"]["tasks_not_learned"] is None
    assert "smallest_class" not in latest_table(history)["columns"]
    assert "decided" not in print_report(facts)
    assert not any("decided" in column.title for column in build_task_table(facts).columns)


# "of which class is the precision?": figures of a class that nothing names


def write_diagnoses(tmp_path: Path) -> RunHistory:
    """Writes a run on tasks whose positive classes are not what a reader would guess, and one task of three classes."""
    tasks = [
        Task(name="biopsy", classes=("cancer", "healthy")),
        Task(name="smiling", classes=("no", "yes")),
        Task(name="grade", classes=("low", "mid", "high")),
    ]
    labels = draw_labels(60, tasks, missing=0.0)
    write_run(tmp_path / "run", tasks, labels, draw_predictions(labels, tasks, 0.8, 1))
    return RunHistory(tmp_path / "run")


def test_the_positive_class_is_named_beside_the_figures_of_it(tmp_path: Path) -> None:
    history = write_diagnoses(tmp_path)
    facts = collect_facts(history, "test")
    expected = {"biopsy": "healthy", "smiling": "yes", "grade": None}
    page = build_task_table(facts)
    column = [column.title for column in page.columns].index("positive")
    assert {row[0]: row[column] for row in page.rows} == expected
    hints = {each.title: each.hint for each in page.columns}
    assert hints["AUROC"] == hints["average precision"] == "of the positive class, in a task with two classes"
    assert POSITIVE_NOTE in explain_columns(facts)
    assert any("biopsy (positive: healthy)" in json.dumps(figure.data) for figure in draw_scatters(facts))
    table = latest_table(history)
    column = table["columns"].index("positive")
    assert {row[0]: row[column] or None for row in table["data"]} == expected
    assert POSITIVE_NOTE in write_description(history)
    assert {task["task"]: task["positive"] for task in run_to_json(facts)["tasks"]} == expected
    shown = print_report(facts)
    assert re.search(r"task +positive +samples", shown)
    assert re.search(r"biopsy +healthy +60", shown)
    assert re.search(r"grade +60", shown)
    assert POSITIVE_NOTE in shown


def test_runs_of_earlier_versions_name_it_too() -> None:
    old = Path(__file__).parents[1] / "data/old/runs/old"
    assert RunHistory(old).positives == {"bright": "yes", "blue": "1", "dark": "1"}


def test_a_run_without_checkpoint_or_predictions_names_none(tmp_path: Path) -> None:
    history = write_diagnoses(tmp_path)
    (tmp_path / "run/predictions-test.parquet").unlink()
    facts = collect_facts(history, "test")
    assert POSITIVE_NOTE not in print_report(facts)
    assert "positive" not in [column.title for column in build_task_table(facts).columns]
    assert "positive" not in latest_table(history)["columns"]


def test_info_names_the_positive_class(small_set: ShardSet, capsys: pytest.CaptureFixture[str]) -> None:
    assert matl_data(["info", str(small_set.root)]) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    tasks = read_manifest(small_set.root).tasks
    start = header.index("positive")
    shown = [row[start : header.index("labels per class")].strip() for row in rows[: len(tasks)]]
    assert shown == [task.positive or "" for task in tasks]


# "one long task name, and the table has no numbers": names that take all the room, or that a terminal obeys

NAMES = [
    "x" * 300,
    "a very long caption about the left wing of the bird with number 1",
    "a very long caption about the left wing of the bird with number 2",
    "[bold]loud[/bold] [/] :smile:",
    "\x1b[2J\x1b[31mred",
    "line\nbreak\r\ttab",
    "左翼の色が青い鳥の写真" * 20,
    "cafe\u0301 " * 40,
    "\u202eabc",
    "$x_{1}^^$ 100%",
]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_names_never_cost_a_figure(tmp_path: Path, width: int) -> None:
    tasks = [Task(name=name, classes=("no", "a class with a long name " * 8)) for name in NAMES]
    labels = draw_labels(2000, tasks, missing=0.0)
    write_run(tmp_path / "run", tasks, labels, draw_predictions(labels, tasks, 0.8, 1))
    facts = collect_facts(RunHistory(tmp_path / "run"), "test")
    shown = print_report(facts, width)
    assert not {each for each in shown if unicodedata.category(each) in ("Cc", "Cf")} - {"\n"}
    begin = f"worst {len(NAMES)} by balanced accuracy"
    worst = shown[shown.index(begin) : shown.index(POSITIVE_NOTE)].splitlines()[1:]
    assert max(map(cell_len, worst)) <= width
    figures = facts.latest.metrics.measured(TASK_COLUMNS)
    for i in range(len(NAMES)):
        for metric in figures:
            assert any(f"{facts.latest.metrics.values[metric][i]:.4f}" in line for line in worst)
    assert sum("2,000" in line for line in worst) == len(NAMES)
    assert "[bold]lo" in shown
    if width == 160:
        assert all(any(f"number {number}" in line for line in worst) for number in "12")


def test_a_table_without_long_names_is_not_broken_up(tmp_path: Path) -> None:
    shown = print_report(collect_facts(write_diagnoses(tmp_path), "test"), 160)
    title = "task     positive  samples  balanced accuracy   AUROC  average precision  accuracy  majority accuracy"
    assert title in [line.rstrip() for line in shown.splitlines()]


@pytest.mark.parametrize("width", range(1, 40))
def test_long_names_are_cut_in_the_middle(width: int) -> None:
    for name in map(printable, NAMES):
        cut = shorten_middle(name, width)
        assert cell_len(cut) <= width or cut == "…"
        beginning, _, end = cut.partition("…")
        assert name.startswith(beginning)
        assert name.endswith(end)
        assert not end or not unicodedata.combining(end[0])


def test_long_names_fit_the_page_and_mlflow(tmp_path: Path) -> None:
    tasks = binary_tasks(*NAMES)
    labels = draw_labels(50, tasks, missing=0.0)
    write_run(tmp_path / "run", tasks, labels, draw_predictions(labels, tasks, 0.8, 1))
    history = RunHistory(tmp_path / "run")
    assert len(write_description(history)) < MAX_TAG_VAL_LENGTH
    assert all(len(text) < 100 for text in run_tags(history).values())
    assert {row[0] for row in latest_table(history)["data"]} == set(NAMES)  # data: nothing is cut
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of Chinese, in matplotlib's font
        draw_heatmap(history, tmp_path / "picture.png")
    page = tmp_path / "page.html"
    assert report([str(tmp_path / "run"), "--out", str(page)]) == 0
    text = page.read_text(encoding="utf-8")
    assert "x" * 300 in text
    assert "<bold>" not in text
