"""The figures of one run: the metrics over tasks, over samples and draws, and of every task over time."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from matl_scale.metrics.names import MAIN_METRIC, MAIN_METRIC_LABELS, METRIC_LABELS, SUMMARIES
from matl_scale.metrics.task_metrics import defined, summarise
from matl_scale.report.facts import RunFacts
from matl_scale.report.page.figure import Figure, axis, plain, tick_name
from matl_scale.report.page.table import rounded

NUM_BINS = 40
MAX_COLUMNS = 100  # evaluations in the heatmap
MAX_HEATMAP_PX = 1000


def build_run_figures(facts: RunFacts) -> dict[str, list[Figure]]:
    """Builds all figures of a run, by the heading that they stand under."""
    return {
        "Over tasks": [*(draw_distribution(facts, metric) for metric in MAIN_METRIC_LABELS), *draw_scatters(facts)],
        "Over time": [
            draw_heatmap(facts),
            *draw_summaries(facts),
            *draw_loss(facts),
            *draw_tasks(facts),
        ],
        "Time, data and memory": draw_resources(facts),
    }


def draw_distribution(facts: RunFacts, metric: str) -> Figure:
    """Draws how many tasks reach which value of a metric."""
    values = defined(facts.latest.metrics.values[metric])
    edges = np.linspace(0, 1, NUM_BINS + 1)
    counts, _ = np.histogram(values, edges)
    first = int(np.flatnonzero(counts)[0]) if counts.any() else 0
    bars = {
        "type": "bar",
        "x": rounded((edges[first:-1] + edges[first + 1 :]) / 2, 4),
        "y": counts[first:].tolist(),
        "width": 1 / NUM_BINS,
        "customdata": [f"{low:.3f} to {low + 1 / NUM_BINS:.3f}" for low in edges[first:-1]],
        "hovertemplate": "%{customdata}: %{y} tasks<extra></extra>",
    }
    layout: dict[str, Any] = {
        "xaxis": axis(METRIC_LABELS[metric]),
        "yaxis": axis("tasks", **whole_ticks(counts)),
        "bargap": 0.04,
    }
    if len(values):
        mean = float(values.mean())
        ends = {"x0": mean, "x1": mean, "yref": "paper", "y0": 0, "y1": 1}
        layout["shapes"] = [{"type": "line", "line": {"dash": "dot", "width": 1}, **ends}]
        layout["annotations"] = [
            {"x": mean, "yref": "paper", "y": 1, "yanchor": "bottom", "text": f"mean {mean:.3f}", "showarrow": False}
        ]
    return Figure(title=f"Distribution of {METRIC_LABELS[metric]}", data=[bars], layout=layout, height=220, span=3)


def draw_scatters(facts: RunFacts) -> list[Figure]:
    """Draws every task's metrics against its labelled samples and against its draws."""
    latest = facts.latest
    amounts = {"labelled samples of the task": latest.metrics.counts}
    if latest.draws is not None:
        amounts["draws of the task"] = latest.draws
    names = [plain(name) for name in latest.tasks]
    figures = []
    for title, amount in amounts.items():
        shown = np.flatnonzero(amount > 0)  # the axis is logarithmic
        traces = [
            {
                "type": "scatter",
                "mode": "markers",
                "name": label,
                "visible": True if metric == MAIN_METRIC else "legendonly",
                "x": amount[shown].tolist(),
                "y": rounded(latest.metrics.values[metric][shown]),
                "text": [names[i] for i in shown],
                "hovertemplate": "%{text}<br>%{x:,} · %{y:.3f}<extra></extra>",
                "marker": {"size": 6, "opacity": 0.6},
            }
            for metric, label in MAIN_METRIC_LABELS.items()
        ]
        layout = {
            "xaxis": axis(title, type="log", **log_ticks(amount[shown])),
            "yaxis": axis("metric"),
            "showlegend": True,
        }
        figures.append(Figure(title=f"Metrics against {title}", data=traces, layout=layout, height=340, span=6))
    return figures


def draw_heatmap(facts: RunFacts) -> Figure:
    """Draws the main metric of every task at every evaluation, worst task on top."""
    course = facts.courses[MAIN_METRIC].worst_first()
    columns = np.unique(np.linspace(0, len(course.steps) - 1, min(len(course.steps), MAX_COLUMNS)).round().astype(int))
    trace = {
        "type": "heatmap",
        "x": [f"{course.steps[i]:,}" for i in columns],
        # the rank makes shortened names unique
        "y": [f"{rank} {tick_name(name)}" for rank, name in enumerate(course.tasks, start=1)],
        "z": [rounded(values) for values in course.values[:, columns]],
        "zmin": course.lowest,
        "zmax": 1.0,
        "colorscale": "Viridis",
        "hoverongaps": False,
        "hovertemplate": "%{y}<br>step %{x}: %{z:.3f}<extra></extra>",
        "colorbar": {"thickness": 12, "outlinewidth": 0},
    }
    layout = {
        "xaxis": axis("step", type="category"),
        "yaxis": {"type": "category", "autorange": "reversed"},
    }
    left_out = "" if len(columns) == len(course.steps) else f"; {len(columns)} of {len(course.steps)} evaluations"
    return Figure(
        title=f"{METRIC_LABELS[MAIN_METRIC].capitalize()} of {len(course.tasks):,} tasks over time, worst on top{left_out}",
        data=[trace],
        layout=layout,
        height=min(90 + 16 * len(course.tasks), MAX_HEATMAP_PX),
        span=12,
    )


def log_ticks(values: np.ndarray) -> dict[str, Any]:
    """Returns ticks 1, 2, 5, 10, … of a logarithmic axis."""
    largest = max(values.tolist(), default=1)
    ticks = [factor * 10**power for power in range(len(str(int(largest)))) for factor in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}


def whole_ticks(counts: np.ndarray) -> dict[str, Any]:
    """Keeps the ticks of a short axis of counts whole."""
    return {"dtick": 1} if counts.max(initial=0) < 6 else {}


MAX_POINTS = 400  # of a curve
MAX_CURVES = 12  # tasks that are told apart by colour


def draw_summaries(facts: RunFacts) -> list[Figure]:
    """Draws the summaries of the main metric, and the means of all metrics, at every evaluation."""
    summaries = [summarise(column) for column in facts.courses[MAIN_METRIC].values.T]
    steps = facts.courses[MAIN_METRIC].steps
    kinds = [curve(label, steps, [summary[kind] for summary in summaries]) for kind, label in SUMMARIES.items()]
    means = [
        curve(label, steps, [summarise(column)["macro"] for column in facts.courses[metric].values.T])
        for metric, label in MAIN_METRIC_LABELS.items()
    ]
    return [
        Figure(title=f"{METRIC_LABELS[MAIN_METRIC].capitalize()} over all tasks", data=kinds, layout=over_steps("")),
        Figure(title="Mean over all tasks", data=means, layout=over_steps("")),
    ]


def draw_tasks(facts: RunFacts) -> list[Figure]:
    """Draws the main metric of each task over time, if they are few."""
    course = facts.courses[MAIN_METRIC]
    if len(course.tasks) > MAX_CURVES:
        return []
    traces = [
        curve(plain(name), course.steps, rounded(values))
        for name, values in zip(course.tasks, course.values, strict=True)
    ]
    title = f"{METRIC_LABELS[MAIN_METRIC].capitalize()} of each task"
    return [Figure(title=title, data=traces, layout=over_steps(""), height=380, span=12)]


def draw_loss(facts: RunFacts) -> list[Figure]:
    """Draws the loss of training and of the evaluations."""
    split = facts.latest.split
    traces = [
        record_curve(facts, "train/loss", "training"),
        record_curve(facts, f"{split}/macro_loss", f"{plain(split)}, mean over tasks"),
    ]
    found = [trace for trace in traces if trace["x"]]
    return [Figure(title="Loss", data=found, layout=over_steps(""))] if found else []


def draw_resources(facts: RunFacts) -> list[Figure]:
    """Draws what a run took."""
    wanted = {
        "train/images_per_s": ("Throughput", "images/s"),
        "train/step_s": ("Time per step", "s"),
        "train/data_wait_share": ("Share of the time spent waiting for data", ""),
        "train/memory_gb": ("Peak memory", "GB"),
    }
    figures = []
    for key, (title, unit) in wanted.items():
        trace = record_curve(facts, key, title)
        if trace["x"]:
            layout = over_steps(unit) | {"showlegend": False}
            layout["yaxis"] |= {"rangemode": "tozero"} | ({"tickformat": ".0%"} if key.endswith("share") else {})
            figures.append(Figure(title=title, data=[trace], layout=layout, height=200, span=3))
    return figures


def record_curve(facts: RunFacts, key: str, name: str) -> dict[str, Any]:
    """Returns the curve of a metric of the run's records, with neighbours averaged where there are too many."""
    points = sorted({record["step"]: record[key] for record in facts.run.records if key in record}.items())
    groups = np.array_split(np.array(points, dtype=float).reshape(-1, 2), min(len(points), MAX_POINTS) or 1)
    means = [group.mean(axis=0) for group in groups if len(group)]
    return curve(name, [round(float(step)) for step, _ in means], [float(f"{value:.4g}") for _, value in means])


def curve(name: str, steps: Sequence[int], values: Sequence[float | None]) -> dict[str, Any]:
    """Returns a line; `name` has to be plain."""
    shown = [None if value is None or np.isnan(value) else float(f"{value:.4g}") for value in values]
    mode = "lines+markers" if len(steps) < 30 else "lines"
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
    return {"xaxis": axis("step"), "yaxis": axis(title), "showlegend": True, "hovermode": "x unified"}
