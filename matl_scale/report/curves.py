"""The curves of one run: summaries over tasks, loss, and what the run took, by step."""

from typing import Any

import numpy as np

from matl_scale.report.facts import MAIN, METRIC_NAMES, RunFacts, summarise
from matl_scale.report.figure import Figure, axis, plain
from matl_scale.report.table import rounded

MAX_POINTS = 400  # of a curve
MAX_CURVES = 12  # tasks that are told apart by colour


def draw_summaries(facts: RunFacts) -> list[Figure]:
    """Draws the summaries of the main metric, and the means of all metrics, at every evaluation."""
    summaries = [summarise(column) for column in facts.courses[MAIN].values.T]
    steps = facts.courses[MAIN].steps
    kinds = [curve(kind, steps, [summary[kind] for summary in summaries]) for kind in summaries[0]]
    means = [
        curve(label, steps, [summarise(column)["mean"] for column in facts.courses[metric].values.T])
        for metric, label in METRIC_NAMES.items()
    ]
    return [
        Figure(title=f"{METRIC_NAMES[MAIN].capitalize()} over all tasks", data=kinds, layout=over_steps("")),
        Figure(title="Mean over all tasks", data=means, layout=over_steps("")),
    ]


def draw_tasks(facts: RunFacts) -> list[Figure]:
    """Draws the main metric of each task over time, if they are few."""
    course = facts.courses[MAIN]
    if len(course.tasks) > MAX_CURVES:
        return []
    traces = [
        curve(plain(name), course.steps, rounded(values))
        for name, values in zip(course.tasks, course.values, strict=True)
    ]
    title = f"{METRIC_NAMES[MAIN].capitalize()} of each task"
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


def curve(name: str, steps: list[int], values: list[float | None]) -> dict[str, Any]:
    """Returns a line; `name` has to be plain."""
    values = [None if value is None else float(f"{value:.4g}") for value in values]
    mode = "lines+markers" if len(steps) < 30 else "lines"
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": steps,
        "y": values,
        "line": {"width": 1.5},
        "marker": {"size": 4},
    }


def over_steps(title: str) -> dict[str, Any]:
    return {"xaxis": axis("step"), "yaxis": axis(title), "showlegend": True, "hovermode": "x unified"}
