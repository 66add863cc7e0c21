"""Figures of a run's last evaluation: how the metrics are distributed over tasks, and how they depend on what was trained on."""

from typing import Any, Literal

import numpy as np

from matl_scale.display import show_name
from matl_scale.metrics.names import MAIN_METRIC, MAIN_METRIC_LABELS, METRIC_LABELS
from matl_scale.metrics.task_metrics import defined
from matl_scale.report.facts import RunFacts
from matl_scale.report.page.figure import Figure, axis, escape_markup, scatter
from matl_scale.report.page.table import rounded

NUM_BINS = 40
MAX_WHOLE_TICKS = 5  # counts up to it need to be told to have whole ticks


def draw_distribution(facts: RunFacts, metric: str) -> Figure:
    """Draws how many tasks reach which value of a metric."""
    metrics = facts.latest.metrics
    values, in_means = defined(metrics.values[metric]), defined(metrics.values[metric][metrics.in_means])
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
        "yaxis": axis("tasks") | ({"dtick": 1} if counts.max(initial=0) <= MAX_WHOLE_TICKS else {}),
        "bargap": 0.04,
    }
    if len(in_means):
        mean = float(in_means.mean())
        ends = {"x0": mean, "x1": mean, "yref": "paper", "y0": 0, "y1": 1}
        layout["shapes"] = [{"type": "line", "line": {"dash": "dot", "width": 1}, **ends}]
        layout["annotations"] = [
            {"x": mean, "yref": "paper", "y": 1, "yanchor": "bottom", "text": f"mean {mean:.3f}", "showarrow": False}
        ]
    return Figure(title=f"Distribution of {METRIC_LABELS[metric]}", data=[bars], layout=layout, height=220, span=3)


def draw_scatters(facts: RunFacts) -> list[Figure]:
    """Draws every task's metrics against its labelled samples, the draws of its route, and the labels it was trained on."""
    latest, shared = facts.latest, facts.run.shares_routes
    known = {
        "labelled samples of the task": latest.metrics.counts,
        "draws of the task's route" if shared else "draws of the task": latest.draws,
        "labels that the task was trained on": latest.labels_seen,
    }
    amounts = {title: amount for title, amount in known.items() if amount is not None}
    span: Literal[4, 6] = 4 if len(amounts) > 2 else 6
    positives = facts.run.positives
    names = [
        escape_markup(show_name(name) + (f" (positive: {show_name(positives[name])})" if name in positives else ""))
        for name in latest.tasks
    ]
    figures = []
    for title, amount in amounts.items():
        shown = np.flatnonzero(amount > 0)  # the axis is logarithmic
        traces = [
            scatter(
                amount[shown].tolist(),
                rounded(latest.metrics.values[metric][shown]),
                name=label,
                visible=True if metric == MAIN_METRIC else "legendonly",
                text=[names[i] for i in shown],
                hovertemplate="%{text}<br>%{x:,} · %{y:.3f}<extra></extra>",
                marker={"size": 6, "opacity": 0.6},
            )
            for metric, label in MAIN_METRIC_LABELS.items()
        ]
        layout = {
            "xaxis": axis(title, type="log", **log_ticks(amount[shown])),
            "yaxis": axis("metric"),
            "showlegend": True,
        }
        figures.append(Figure(title=f"Metrics against {title}", data=traces, layout=layout, height=340, span=span))
    return figures


def log_ticks(values: np.ndarray) -> dict[str, Any]:
    """Returns ticks 1, 2, 5, 10, … of a logarithmic axis."""
    largest = max(values.tolist(), default=1)
    ticks = [factor * 10**power for power in range(len(str(int(largest)))) for factor in (1, 2, 5)]
    return {"tickvals": ticks, "ticktext": [f"{tick:,}" for tick in ticks]}
