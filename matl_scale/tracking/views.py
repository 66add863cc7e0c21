"""Views of a run's per-task history for MLflow: the latest table, and the picture tasks × evaluations."""

from pathlib import Path
from typing import Any

import numpy as np

from matl_scale.tracking.history import RunHistory

PICTURE_METRIC = "balanced_accuracy"
FIRST_COLUMNS = ("balanced_accuracy", "auroc", "average_precision", "accuracy", "majority_accuracy")
MAX_LABELS = 50


def latest_table(history: RunHistory) -> dict[str, Any]:
    """Returns the last evaluation of each split, as `{"columns": [...], "data": [[...], ...]}`.

    One row per task, worst first; what a reader looks at first comes first. Values are texts with four digits behind the point,
    empty where they are undefined: MLflow's page sorts a table by the digits it shows, 0.95 below 0.922.
    """
    rows: list[list[Any]] = []
    tables = [history.latest(split) for split in history.steps]
    metrics = sorted({name for table in tables for name in table.metrics.values}, key=column_rank)
    for table in tables:
        columns = [digits(table.metrics.values[name]) for name in metrics]
        draws = [None] * len(table.tasks) if table.draws is None else table.draws.tolist()
        rows += [
            [
                table.tasks[i],
                *(column[i] for column in columns),
                int(table.metrics.counts[i]),
                draws[i],
                table.split,
                table.step,
            ]
            for i in table.worst_first(PICTURE_METRIC)
        ]
    return {"columns": ["task", *metrics, "count", "draws", "split", "step"], "data": rows}


def digits(values: np.ndarray) -> list[str]:
    return [f"{value:.4f}" if np.isfinite(value) else "" for value in values.tolist()]


def column_rank(metric: str) -> tuple[int, str]:
    return (FIRST_COLUMNS.index(metric) if metric in FIRST_COLUMNS else len(FIRST_COLUMNS), metric)


def draw_heatmap(history: RunHistory, picture: Path) -> None:
    """Draws the balanced accuracy of every task at every evaluation of the split evaluated most, worst task on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    split = max(history.steps, key=lambda name: len(history.steps[name]))
    course = history.over_time(split, PICTURE_METRIC)
    order, steps = np.argsort(course.values[:, -1]), course.steps
    tasks, values = [course.tasks[i] for i in order], course.values[order]
    height = float(np.clip(0.16 * len(tasks), 2.5, 8))
    figure = Figure(figsize=(7, height + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lowest = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
    image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=lowest, vmax=1, interpolation="nearest")
    axes.set_title(f"{PICTURE_METRIC.replace('_', ' ')} on {split}, {len(tasks)} tasks, worst on top")
    axes.set_xlabel("step")
    columns = range(0, len(steps), max(1, -(-len(steps) // MAX_LABELS)))
    axes.set_xticks(list(columns), [str(steps[i]) for i in columns], rotation=90 if len(columns) > 8 else 0)
    shown = range(0, len(tasks), max(1, -(-len(tasks) // MAX_LABELS)))
    axes.set_yticks(list(shown), [tasks[i] for i in shown], fontsize=6)
    figure.colorbar(image, ax=axes)
    figure.savefig(picture, dpi=110)
