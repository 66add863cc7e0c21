"""Reports whose figures could not be read: names that are too long or that terminals and pages interpret, figures of an unnamed
class, networks no better than a constant answer."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from helpers.report_runs import binary_tasks, draw_labels, measure, write_run
from matl_scale.metrics.counters import TaskCounters
from matl_scale.metrics.task_metrics import describe_not_better
from matl_scale.report.facts import RunFacts, collect_facts
from matl_scale.report.page.run_summary import build_tiles
from matl_scale.report.page.task_table import build_task_table
from matl_scale.report.terminal.run import print_run
from matl_scale.runs.history import RunHistory
from matl_scale.tracking.mlflow_views import write_description


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
