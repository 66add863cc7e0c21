"""What the page shows of the spread over seeds: how much runs of one config differ, over all tasks and task by task."""

from typing import Any

import numpy as np

from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.metrics.task_metrics import defined
from matl_scale.report.comparison.results import SeedSpread
from matl_scale.report.page.table import Cell, Column, Table, Tile, format_number, rounded


def build_seed_section(spread: SeedSpread) -> dict[str, Any]:
    """Builds what report.html.j2 shows of the spread over seeds."""
    return {
        "metric": METRIC_LABELS[spread.metric],
        "content": spread,
        "tiles": build_spread_tiles(spread),
        "table": build_spread_table(spread),
    }


def build_spread_tiles(spread: SeedSpread) -> list[Tile]:
    """Returns how much the runs differ, over all tasks and in the task that differs most."""
    sds, known = spread.over_runs["sd"], defined(spread.over_runs["sd"])
    if not len(known):
        return []
    means, most = spread.run_means, spread.most_different_first()[0]
    return [
        Tile(
            label="mean over tasks and runs"
            if spread.in_means.all()
            else f"mean over {spread.in_means.sum():,} tasks and the runs",
            value=format_number(means.mean()),
            detail=f"the runs' means have an sd of {means.std(ddof=1):.4f}",
        ),
        Tile(label="median sd of a task", value=format_number(float(np.median(known)))),
        Tile(label="largest sd of a task", value=format_number(sds[most]), detail=spread.tasks[most]),
    ]


def build_spread_table(spread: SeedSpread) -> Table:
    """Builds the table of the metric over seeds, the task that differs most first."""
    titles = (*spread.over_runs, *spread.runs)
    columns = [Column(title="task"), *(Column(title=title, digits=3) for title in titles)]
    numbers = [rounded(values) for values in (*spread.over_runs.values(), *spread.values)]
    rows: list[list[Cell]] = [
        [spread.tasks[i], *(column[i] for column in numbers)] for i in spread.most_different_first()
    ]
    return Table(columns=columns, rows=rows)
