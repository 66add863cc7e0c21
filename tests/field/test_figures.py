"""Reports whose figures could not be read: names that are too long or that terminals and pages interpret, figures of an unnamed
class, networks no better than a constant answer."""

import io
import json
import re
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH
from rich.cells import cell_len
from rich.console import Console

from data_prep.__main__ import main as matl_data
from helpers.report_runs import binary_tasks, draw_labels, draw_predictions, measure, write_run
from helpers.shard_sets import ShardSet
from matl_scale.data.shards.manifest import read_manifest
from matl_scale.display import printable, shorten_middle
from matl_scale.metrics.counters import TaskCounters
from matl_scale.metrics.names import POSITIVE_NOTE, TASK_COLUMNS
from matl_scale.metrics.task_metrics import describe_not_better
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


@pytest.mark.parametrize("num_samples", [3, 7, 49, 1000])
def test_a_network_at_chance_is_better_than_the_constant_answer_on_no_task(tmp_path: Path, num_samples: int) -> None:
    tasks = binary_tasks(*(f"task {i}" for i in range(50)))
    labels = draw_labels(num_samples, tasks, missing=0.0)
    labels[:2] = [[0], [1]]
    frequent = (labels.mean(axis=0) > 0.5).astype(labels.dtype)
    write_run(tmp_path / "run", tasks, labels, np.broadcast_to(frequent, labels.shape).copy())
    history = RunHistory(tmp_path / "run")
    facts = collect_facts(history, "test")
    expected = "not better than the constant answer: 50 of 50"
    assert describe_not_better(facts.latest.metrics.summary()) == expected
    assert f"tasks {expected}" in print_report(facts)
    assert expected in write_description(history)
    tile = next(tile for tile in build_tiles(facts) if tile.label == "tasks not better than the constant answer")
    assert (tile.value, tile.mark) == ("50", "bad")
    assert all("not better than the constant answer" in str(row[-1]) for row in build_task_table(facts).rows)


def test_one_more_correct_answer_than_the_constant_one_is_better() -> None:
    """Thirds and sevenths of samples are rounded; the numbers of correct answers are not."""
    for num_samples in range(3, 200):
        labels = torch.tensor([0] * (num_samples - 1) + [1])
        counters = TaskCounters([2, 2])
        constant, perfect = torch.zeros_like(labels), labels
        for task, answers in enumerate((constant, perfect)):
            logits = torch.nn.functional.one_hot(answers, 2).float()[:, None]
            counters.update(torch.tensor([task]), logits, labels[:, None])
        assert counters.compute().not_better.tolist() == [True, False]


def test_where_one_class_occurs_only_mistakes_count() -> None:
    tasks = binary_tasks("right", "wrong")
    labels = np.zeros((5, 2), dtype=np.int64)
    predicted = np.array([[0, 0]] * 4 + [[0, 1]])
    assert measure(tasks, labels, predicted).not_better.tolist() == [False, True]


def test_tasks_without_a_sample_are_not_counted() -> None:
    tasks = binary_tasks("known", "unknown")
    labels = np.array([[0, -1], [1, -1], [0, -1]])
    summary = measure(tasks, labels, np.zeros_like(labels)).summary()
    assert describe_not_better(summary) == "not better than the constant answer: 1 of 1"


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
    figures = [*TASK_COLUMNS]
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
