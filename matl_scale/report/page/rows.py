"""The rows of the page's tables: tasks of a run, tasks of a comparison, tasks over seeds."""

import numpy as np

from matl_scale.data.shards.layout import MISSING
from matl_scale.metrics.names import MAIN_METRIC, METRIC_LABELS
from matl_scale.metrics.task_metrics import worst_first
from matl_scale.metrics.undefined import NO_LABEL, ONE_CLASS, why_undefined
from matl_scale.report.comparison.results import Comparison, SeedSpread, TaskDifference
from matl_scale.report.facts import RunFacts
from matl_scale.report.page.table import Cell, Column, Mark, Table, rounded, shorten

OTHERS = ("auroc", "average_precision", "accuracy")
VERDICT_ORDER = ("regressed", "improved", "unchanged", "undefined")
VERDICT_MARKS: dict[str, Mark] = {"improved": "better", "regressed": "worse"}


def build_task_table(facts: RunFacts) -> Table:
    """Builds the table with a row per task, worst first."""
    latest, change = facts.latest, facts.change
    since = "the previous evaluation" if change.since is None else f"step {change.since:,}"
    columns = [
        Column(title="task"),
        Column(title="balanced accuracy", digits=3),
        Column(title="±", digits=3, hint="half of the 95 % interval of the balanced accuracy"),
        Column(title="change", digits=3, signed=True, hint=f"of the balanced accuracy since {since}"),
        *(Column(title=METRIC_LABELS[name], digits=3) for name in OTHERS),
        Column(title="majority accuracy", digits=3, hint="of always answering the most frequent class"),
        Column(title="samples", digits=0, hint="with a label for the task"),
        Column(title="draws", digits=0, hint="how often the task was trained"),
        Column(title="note"),
    ]
    values, counts = latest.metrics.values, latest.metrics.counts.tolist()
    draws = [None] * len(counts) if latest.draws is None else latest.draws.tolist()
    measured = [values[MAIN_METRIC], facts.half_widths, change.values]
    measured += [values[name] for name in (*OTHERS, "majority_accuracy")]
    numbers = [*map(rounded, measured), counts, draws]
    notes, order = note_tasks(facts), worst_first(values[MAIN_METRIC])
    moves = np.where(change.beyond_chance, np.sign(np.nan_to_num(change.values)), 0)
    return Table(
        columns=columns,
        rows=[[latest.tasks[i], *(column[i] for column in numbers), notes[i]] for i in order],
        marks={
            3: [mark_move(moves[i]) for i in order],
            6: ["bad" if latest.metrics.below_baseline[i] else "" for i in order],
        },
        chosen=[place for place, i in enumerate(order) if notes[i]],
        choice="only tasks with a note",
    )


def note_tasks(facts: RunFacts) -> list[str]:
    """Says of each task what is wrong with it; an empty text if nothing is."""
    latest, reasons = facts.latest, find_reasons(facts)
    notes = []
    for i, name in enumerate(latest.tasks):
        found = []
        if latest.metrics.counts[i] == 0:
            found.append(NO_LABEL)
        elif not np.isfinite(latest.metrics.values[MAIN_METRIC][i]):
            found.append(reasons.get(name, ONE_CLASS))
        if latest.metrics.below_baseline[i]:
            found.append("below baseline")
        if latest.draws is not None and latest.draws[i] == 0:
            found.append("never trained")
        notes.append("; ".join(found))
    return notes


def find_reasons(facts: RunFacts) -> dict[str, str]:
    """Returns, by task, why it cannot be measured on the split, with the name of the only class that occurs."""
    if facts.predictions is None:
        return {}
    tasks, columns = facts.predictions.info.tasks, np.ascontiguousarray(facts.predictions.labels.T)
    reasons = {
        task.name: why_undefined(task, np.bincount(column[column != MISSING], minlength=task.num_classes))
        for task, column in zip(tasks, columns, strict=True)
    }
    return {name: reason for name, reason in reasons.items() if reason}


def build_comparison_table(comparison: Comparison) -> Table:
    """Builds the table with a row per task: what got worse first, then what got better, then the rest."""
    spreads = [
        (name, spread)
        for name, spread in (("A", comparison.spread_a), ("B", comparison.spread_b))
        if spread is not None
    ]
    columns = [
        Column(title="task"),
        Column(title=f"A: {shorten(comparison.name_a)}", digits=3),
        Column(title=f"B: {shorten(comparison.name_b)}", digits=3),
        Column(title="B − A", digits=3, signed=True),
        Column(title="from", digits=3, signed=True, hint="lower end of the 95 % interval of the difference"),
        Column(title="to", digits=3, signed=True, hint="upper end of the 95 % interval of the difference"),
        Column(title="adjusted p", digits=4, least=0.0001, hint="corrected over the tasks of this comparison"),
        Column(title="samples", digits=0),
        *(
            Column(title=f"sd of {name}", digits=3, hint=f"standard deviation over the runs of {name}")
            for name, _ in spreads
        ),
        Column(title="verdict"),
        Column(title="remark"),
    ]
    places = {task.task: i for i, task in enumerate(comparison.tasks)}
    tasks = [task for verdict in VERDICT_ORDER for task in comparison.with_verdict(verdict)]  # type: ignore[arg-type]
    rows: list[list[Cell]] = [
        [
            task.task,
            *difference_cells(task),
            *rounded(np.array([spread[places[task.task]] for _, spread in spreads])),
            comparison.heading(task.verdict),
            task.reason,
        ]
        for task in tasks
    ]
    marks = [VERDICT_MARKS.get(task.verdict, "") for task in tasks]
    chosen = [place for place, mark in enumerate(marks) if mark]
    places_of_marks = (3, len(columns) - 2)
    return Table(
        columns=columns,
        rows=rows,
        marks=dict.fromkeys(places_of_marks, marks),
        chosen=chosen,
        choice="only tasks that differ",
    )


def difference_cells(task: TaskDifference) -> list[Cell]:
    values = np.array([task.value_a, task.value_b, task.difference, task.low, task.high])
    p = float(f"{task.p_adjusted:.4g}") if np.isfinite(task.p_adjusted) else None
    return [*rounded(values), p, task.count]


def build_spread_table(spread: SeedSpread) -> Table:
    """Builds the table of a metric over seeds, the task that differs most first."""
    titles = ("mean", "sd", "min", "max", *spread.runs)
    columns = [Column(title="task"), *(Column(title=title, digits=3) for title in titles)]
    numbers = [rounded(values) for values in (spread.mean, spread.sd, spread.low, spread.high, *spread.values)]
    order = np.argsort(-np.nan_to_num(spread.sd, nan=-1.0), kind="stable").tolist()
    rows: list[list[Cell]] = [[spread.tasks[i], *(column[i] for column in numbers)] for i in order]
    return Table(columns=columns, rows=rows)


def mark_move(move: float) -> Mark:
    """Returns the colour of a change: up, down or neither."""
    if not move:
        return ""
    return "better" if move > 0 else "worse"
