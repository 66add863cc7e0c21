"""What the page shows of a comparison: tiles, the largest differences, a figure, and a table of all tasks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.metrics.task_metrics import mean
from matl_scale.report.comparison.results import SIGNIFICANT, Comparison, TaskDifference, Verdict
from matl_scale.report.page.figure import Figure, axis, escape_markup, scatter
from matl_scale.report.page.table import (
    MAX_LISTED,
    Cell,
    Column,
    Mark,
    ShortList,
    Table,
    Tile,
    format_number,
    rounded,
    shorten_name,
)

ORDER: tuple[Verdict, ...] = (*SIGNIFICANT, "unchanged", "undefined")
MARKS: dict[Verdict, Mark] = {"regressed": "worse", "improved": "better", "unchanged": "", "undefined": ""}
COLORS: dict[Verdict, str] = {"regressed": "#d55e00", "unchanged": "#8a8f98", "improved": "#009e73"}
DIFFERENCE_COLUMN = 3


def build_comparison_section(comparison: Comparison) -> dict[str, Any]:
    """Builds what comparison.html.j2 shows of one comparison."""
    title = f"{comparison.name_b} against {comparison.name_a}"
    return {
        "title": f"What sharing did: {title}" if comparison.kind == "single-task" else title,
        "metric": METRIC_LABELS[comparison.metric],
        "content": comparison,
        "tiles": build_comparison_tiles(comparison),
        "short_lists": [list_largest(comparison, verdict) for verdict in SIGNIFICANT],
        "table": build_comparison_table(comparison),
        "figure": draw_differences(comparison),
    }


def build_comparison_tiles(comparison: Comparison) -> list[Tile]:
    """Returns the mean difference, and how many tasks have which verdict."""
    counts = {verdict: len(comparison.with_verdict(verdict)) for verdict in ORDER}
    differences = np.array([task.difference for task in comparison.in_means])
    limit = f" with at least {comparison.min_count:,} samples of each class" if comparison.min_count else ""
    first = Tile(
        label=f"mean difference of {METRIC_LABELS[comparison.metric]}",
        value=format_number(mean(differences), signed=True),
        detail=f"on {comparison.split}, over {len(differences):,} tasks{limit}",
    )
    return [first] + [
        Tile(label=comparison.heading(verdict), value=f"{count:,}", mark=MARKS[verdict] if count else "")
        for verdict, count in counts.items()
        if count or verdict != "undefined"
    ]


def list_largest(comparison: Comparison, verdict: Verdict) -> ShortList:
    """Returns the tasks of one verdict with the largest differences."""
    tasks = comparison.with_verdict(verdict)
    rows = [
        (task.task, format_number(task.difference, signed=True), f"{task.low:+.3f} to {task.high:+.3f}")
        for task in tasks[:MAX_LISTED]
    ]
    more = len(tasks) - MAX_LISTED
    remark = f"{more:,} more in the table." if more > 0 else "" if rows else "None."
    title = f"{comparison.heading(verdict).capitalize()}: {len(tasks):,} tasks"
    return ShortList(title=title, rows=rows, remark=remark)


def build_comparison_table(comparison: Comparison) -> Table:
    """Builds the table of all tasks: first those that got worse, then those that got better, then the others."""
    sides = (("A", comparison.spread_a), ("B", comparison.spread_b))
    spreads = {name: spread for name, spread in sides if spread is not None}
    columns = [
        Column(title="task"),
        Column(title=f"A: {shorten_name(comparison.name_a)}", digits=3),
        Column(title=f"B: {shorten_name(comparison.name_b)}", digits=3),
        Column(title="B − A", digits=3, signed=True),
        Column(title="from", digits=3, signed=True, hint="lower end of the 95 % interval of the difference"),
        Column(title="to", digits=3, signed=True, hint="upper end of the 95 % interval of the difference"),
        Column(title="adjusted p", digits=4, least=0.0001, hint="corrected over the tasks of this comparison"),
        Column(title="samples", digits=0),
        *(
            Column(title=f"sd of {name}", digits=3, hint=f"standard deviation over the runs of {name}")
            for name in spreads
        ),
        Column(title="verdict"),
        Column(title="remark"),
    ]
    index_of = {task.task: i for i, task in enumerate(comparison.tasks)}
    tasks = [task for verdict in ORDER for task in comparison.with_verdict(verdict)]
    rows: list[list[Cell]] = []
    for task in tasks:
        values = rounded(np.array([task.value_a, task.value_b, task.difference, task.low, task.high]))
        p = float(f"{task.p_adjusted:.4g}") if np.isfinite(task.p_adjusted) else None
        sds = rounded(np.array([spread[index_of[task.task]] for spread in spreads.values()]))
        rows.append([task.task, *values, p, task.count, *sds, comparison.heading(task.verdict), task.reason])
    marks = [MARKS[task.verdict] for task in tasks]
    verdict_column = len(columns) - 2
    return Table(
        columns=columns,
        rows=rows,
        marks={DIFFERENCE_COLUMN: marks, verdict_column: marks},
        chosen=[row for row, mark in enumerate(marks) if mark],
        choice="only tasks that differ",
    )


def draw_differences(comparison: Comparison) -> Figure:
    """Draws B − A of every task, lowest first, in a colour for each verdict."""
    known = [task for task in comparison.tasks if np.isfinite(task.difference)]
    ranked = list(enumerate(sorted(known, key=lambda task: task.difference), start=1))
    traces = []
    for verdict, color in COLORS.items():
        chosen = [(rank, task) for rank, task in ranked if task.verdict == verdict]
        if chosen:
            name = f"{comparison.heading(verdict)} ({len(chosen)})"
            traces.append(build_trace(chosen) | {"name": name, "marker": {"size": 5, "color": color}})
    title = f"{escape_markup(shorten_name(comparison.name_b))} − {escape_markup(shorten_name(comparison.name_a))}"
    layout = {
        "xaxis": axis("tasks, by difference", zeroline=False),
        "yaxis": axis(title, tickformat="+.2f"),
        "showlegend": True,
    }
    heading = f"Difference of {METRIC_LABELS[comparison.metric]} with 95 % intervals"
    return Figure(title=heading, data=traces, layout=layout, height=340, span=12)


def build_trace(chosen: Sequence[tuple[int, TaskDifference]]) -> dict[str, Any]:
    """Returns the points of some tasks, given with their ranks, with intervals as error bars."""
    columns = ([getattr(task, name) for _, task in chosen] for name in ("difference", "low", "high"))
    differences, low, high = (np.array(column) for column in columns)
    error_bars = {
        "type": "data",
        "array": np.nan_to_num(high - differences).round(4).tolist(),
        "arrayminus": np.nan_to_num(differences - low).round(4).tolist(),
        "width": 0,
        "thickness": 1,
    }
    return scatter(
        [rank for rank, _ in chosen],
        differences.round(4).tolist(),
        error_y=error_bars,
        text=[escape_markup(task.task) for _, task in chosen],
        customdata=[f"{task.low:+.3f} to {task.high:+.3f}" for _, task in chosen],
        hovertemplate="%{text}<br>%{y:+.3f} (%{customdata})<extra></extra>",
    )
