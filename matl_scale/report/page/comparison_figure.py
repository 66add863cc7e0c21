"""The figure of a comparison: the difference of every task with its interval, sorted."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from matl_scale.metrics.names import METRIC_LABELS
from matl_scale.report.comparison.results import Comparison, TaskDifference, Verdict
from matl_scale.report.page.figure import Figure, axis, escape_markup, scatter

COLORS: dict[Verdict, str] = {"regressed": "#d55e00", "unchanged": "#8a8f98", "improved": "#009e73"}


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
    title = f"{escape_markup(comparison.name_b)} − {escape_markup(comparison.name_a)}"
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
