"""Figures of a run over time: the metrics of every task and over tasks, the loss, and what training needed."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from matl_scale.display import show_name
from matl_scale.metrics.names import MAIN_METRIC, MAIN_METRIC_LABELS, METRIC_LABELS, SUMMARIES
from matl_scale.metrics.task_metrics import mean, summarise
from matl_scale.report.facts import RunFacts
from matl_scale.report.page.figure import Figure, axis, escape_markup
from matl_scale.report.page.table import rounded, shorten_name

MAX_COLUMNS = 100  # evaluations in the heatmap
MAX_HEATMAP_PX = 1000
MAX_POINTS = 400  # in a curve
MAX_CURVES = 12  # tasks that colours can tell apart
MAX_MARKERS = 30  # curves with fewer points also have markers
RESOURCES = {  # by key of the run's records: title and unit
    "train/images_per_s": ("Throughput", "images/s"),
    "train/step_s": ("Time per step", "s"),
    "train/data_wait_share": ("Share of the time spent waiting for data", ""),
    "train/memory_gb": ("Peak memory", "GB"),
}


def draw_heatmap(facts: RunFacts) -> Figure:
    """Draws the main metric of every task at every evaluation, worst task on top."""
    history = facts.histories[MAIN_METRIC].worst_first()
    columns = np.unique(
        np.linspace(0, len(history.steps) - 1, min(len(history.steps), MAX_COLUMNS)).round().astype(int)
    )
    trace = {
        "type": "heatmap",
        "x": [f"{history.steps[i]:,}" for i in columns],
        # the rank makes shortened names unique
        "y": [f"{rank} {escape_markup(shorten_name(name))}" for rank, name in enumerate(history.tasks, start=1)],
        "z": [rounded(values) for values in history.values[:, columns]],
        "zmin": history.lowest,
        "zmax": 1.0,
        "colorscale": "Viridis",
        "hoverongaps": False,
        "hovertemplate": "%{y}<br>step %{x}: %{z:.3f}<extra></extra>",
        "colorbar": {"thickness": 12, "outlinewidth": 0},
    }
    layout = {"xaxis": axis("step", type="category"), "yaxis": {"type": "category", "autorange": "reversed"}}
    left_out = "" if len(columns) == len(history.steps) else f"; {len(columns)} of {len(history.steps)} evaluations"
    return Figure(
        title=f"{METRIC_LABELS[MAIN_METRIC].capitalize()} of {len(history.tasks):,} tasks over time, worst on top{left_out}",
        data=[trace],
        layout=layout,
        height=min(90 + 16 * len(history.tasks), MAX_HEATMAP_PX),
        span=12,
    )


def draw_summaries(facts: RunFacts) -> list[Figure]:
    """Draws the summaries of the main metric, and the means of all metrics, at every evaluation."""
    chosen = facts.latest.metrics.in_means
    summaries = [summarise(column[chosen]) for column in facts.histories[MAIN_METRIC].values.T]
    steps = facts.histories[MAIN_METRIC].steps
    by_summary = [curve(label, steps, [summary[kind] for summary in summaries]) for kind, label in SUMMARIES.items()]
    means = [
        curve(label, steps, [mean(column[chosen]) for column in facts.histories[metric].values.T])
        for metric, label in MAIN_METRIC_LABELS.items()
    ]
    over = "all tasks" if chosen.all() or not facts.latest.metrics.min_count else f"{chosen.sum()} tasks"
    figures = {f"{METRIC_LABELS[MAIN_METRIC].capitalize()} over {over}": by_summary, f"Mean over {over}": means}
    return [Figure(title=title, data=curves, layout=over_steps("")) for title, curves in figures.items()]


def draw_tasks(facts: RunFacts) -> list[Figure]:
    """Draws the main metric of each task over time, if they are few."""
    history = facts.histories[MAIN_METRIC]
    if len(history.tasks) > MAX_CURVES:
        return []
    traces = [
        curve(escape_markup(show_name(name)), history.steps, rounded(values))
        for name, values in zip(history.tasks, history.values, strict=True)
    ]
    title = f"{METRIC_LABELS[MAIN_METRIC].capitalize()} of each task"
    return [Figure(title=title, data=traces, layout=over_steps(""), height=380, span=12)]


def draw_loss(facts: RunFacts) -> list[Figure]:
    """Draws the loss of training and of the evaluations."""
    split = facts.latest.split
    traces = [
        record_curve(facts, "train/loss", "training"),
        record_curve(facts, f"{split}/macro_loss", f"{escape_markup(split)}, mean over tasks"),
    ]
    found = [trace for trace in traces if trace["x"]]
    return [Figure(title="Loss", data=found, layout=over_steps(""))] if found else []


def draw_resources(facts: RunFacts) -> list[Figure]:
    """Draws time, data loading and memory of the training."""
    figures = []
    for key, (title, unit) in RESOURCES.items():
        trace = record_curve(facts, key, title)
        if trace["x"]:
            layout = over_steps(unit) | {"showlegend": False}
            layout["yaxis"] |= {"rangemode": "tozero"} | ({"tickformat": ".0%"} if key.endswith("share") else {})
            figures.append(Figure(title=title, data=[trace], layout=layout, height=200, span=3))
    return figures


def record_curve(facts: RunFacts, key: str, name: str) -> dict[str, Any]:
    """Returns the curve of a metric of the run's records; if there are too many, neighbours are averaged."""
    points = sorted({record["step"]: record[key] for record in facts.run.records if key in record}.items())
    groups = np.array_split(np.array(points, dtype=float).reshape(-1, 2), min(len(points), MAX_POINTS) or 1)
    means = [group.mean(axis=0) for group in groups if len(group)]
    return curve(name, [round(float(step)) for step, _ in means], [float(f"{value:.4g}") for _, value in means])


def curve(name: str, steps: Sequence[int], values: Sequence[float | None]) -> dict[str, Any]:
    """Returns a curve; `name` has to be escaped."""
    shown = [None if value is None or np.isnan(value) else float(f"{value:.4g}") for value in values]
    mode = "lines+markers" if len(steps) < MAX_MARKERS else "lines"
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": steps,
        "y": shown,
        "line": {"width": 1.5},
        "marker": {"size": 4},
    }


def over_steps(title: str) -> dict[str, Any]:
    """Returns the layout of curves over steps; `title` is that of the vertical axis."""
    return {"xaxis": axis("step"), "yaxis": axis(title), "showlegend": True, "hovermode": "x unified"}
