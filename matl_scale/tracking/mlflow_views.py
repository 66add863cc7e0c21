"""What MLflow shows of a run beside its metrics: description, tags, data set, a table and a picture of all tasks."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from matl_scale.display import show_name
from matl_scale.metrics.names import (
    MAIN_METRIC,
    METRIC_LABELS,
    POSITIVE_NOTE,
    SUMMARIES,
    SUMMARY_COLUMNS,
    TASK_COLUMNS,
)
from matl_scale.metrics.task_metrics import TaskMetrics, describe_means, describe_not_learned, worst_first
from matl_scale.runs.history import RunHistory, TaskTable
from matl_scale.runs.routes import describe_routes

DIGEST_LENGTH = 36  # the longest that MLflow accepts
NUM_WORST = 10
MAX_LABEL_WIDTH = 40
MAX_LABELS = 50  # beside an axis of the picture


def write_description(history: RunHistory) -> str:
    """Returns a description in Markdown: per split the summaries over tasks, and the worst tasks by name; then what is where."""
    paragraphs = [describe_evaluation(history.latest(split)) for split in history.steps]
    paragraphs.append(
        "All tasks: artifact `per_task.json` (a table), `per_task.png` (tasks × evaluations), `per_task.parquet` (the whole "
        "history)."
    )
    if history.positives:
        paragraphs.append(f"{POSITIVE_NOTE} `per_task.json` names it in the column `positive`.")
    if history.shares_routes:
        paragraphs.append(f"{describe_routes(history.routes)}: artifact `routes.parquet`, parameter `routing.routes`.")
    return "\n\n".join(paragraphs)


def describe_evaluation(table: TaskTable) -> str:
    """Returns the description of one evaluation, in Markdown."""
    metrics, summary = table.metrics, table.metrics.summary()
    columns, main, limited = metrics.measured(SUMMARY_COLUMNS), METRIC_LABELS[MAIN_METRIC], describe_means(metrics)
    worst = ", ".join(
        f"{escape_markdown(show_name(table.tasks[i]))} {four_digits(metrics.values[MAIN_METRIC][i])}"
        for i in metrics.worst(NUM_WORST)
    )
    mean, p10 = (four_digits(summary[f"{kind}_{MAIN_METRIC}"]) for kind in ("macro", "p10"))
    lines = [
        # MLflow shows the first lines only, until the reader unfolds the rest
        f"**{escape_markdown(table.split)} after {table.step:,} steps: {len(table.tasks)} tasks, mean {main} {mean} "
        f"(10th percentile {p10}), {describe_not_learned(metrics)}**",
        f"Worst by {main}: {worst or 'none is defined'}",
        *(
            [f"Tasks {escape_markdown(describe_not_learned(metrics, table.tasks))}"]
            if metrics.not_learned.any()
            else []
        ),
        *([limited.capitalize()] if limited else []),
        f"| over tasks | {' | '.join(METRIC_LABELS[name] for name in columns)} |\n|---|{'---|' * len(columns)}\n"
        + "\n".join(
            f"| {label} | " + " | ".join(four_digits(summary.get(f"{kind}_{name}", np.nan)) for name in columns) + " |"
            for kind, label in SUMMARIES.items()
        ),
    ]
    undefined = int((metrics.unlabelled | metrics.single_class).sum())
    if undefined:
        lines.append(f"{undefined} tasks have no value: no labelled sample in the split, or samples of one class only.")
    return "\n\n".join(lines)


def run_tags(history: RunHistory) -> dict[str, str]:
    """Returns tags that MLflow's list of runs can show as columns: the worst task of each split."""
    tags = {}
    for split in history.steps:
        table = history.latest(split)
        for task_id in table.metrics.worst(1):
            value = four_digits(table.metrics.values[MAIN_METRIC][task_id])
            tags[f"{split}/worst_task"] = f"{show_name(table.tasks[task_id])} ({value})"
    return tags


def environment_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    """Returns tags of the environment: command, Python, devices, and the packages whose versions may change results."""
    if not environment:
        return {}
    packages, devices = environment["packages"], environment["devices"]
    tags = {f"env.{name}": packages[name] for name in ("matl-scale", "torch", "torchvision") if name in packages}
    tags |= {"mlflow.source.name": environment["command"][0], "mlflow.source.type": "LOCAL"}
    return tags | {"env.python": environment["python"], "env.devices": f"{len(devices)} × {devices[0]}"}


def dataset_fields(data: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fields of MLflow's `Dataset` for a shard set; its digest is the beginning of the manifest's id."""
    return {
        "name": str(data["path"]).rstrip("/").rsplit("/", 1)[-1] or str(data["path"]),
        "digest": str(data["manifest_id"])[:DIGEST_LENGTH],
        "source_type": "shard_set",
        "source": json.dumps({"path": data["path"], "version": data["version"]}),
        "profile": json.dumps({"tasks": data["tasks"], "image_size": data["image_size"], **data["splits"]}),
    }


def four_digits(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else ""


def escape_markdown(text: str) -> str:
    """Returns a name such that it is not read as Markdown or HTML."""
    escaped = re.sub(r"[\\`*_{}\[\]<>()#|~!]", r"\\\g<0>", text)
    return " ".join(escaped.split())


def latest_table(history: RunHistory) -> dict[str, Any]:
    """Returns the last evaluation of each split, as `{"columns": [...], "data": [[...], ...]}`.

    One row per task, worst first, with the main metrics in the first columns, its positive class if it is known, the samples of
    its smallest class, and the task's route if tasks share routes.
    Values are text with four decimals, empty where they are undefined: MLflow's page sorts numbers as the text that it shows,
    0.95 below 0.922.
    """
    rows: list[list[Any]] = []
    positives = history.positives
    tables = [history.latest(split) for split in history.steps]
    metrics = sorted({name for table in tables for name in table.metrics.values} - {"smallest_class"}, key=column_rank)
    shows_labels = any(table.labels_seen is not None for table in tables)
    shows_smallest = any("smallest_class" in table.metrics.values for table in tables)
    for table in tables:
        values = [list(map(four_digits, table.metrics.column(name).tolist())) for name in metrics]
        amounts = [
            table.metrics.counts,
            *([count_smallest(table.metrics)] if shows_smallest else []),
            table.draws,
            *([table.labels_seen] if shows_labels else []),
        ]
        counts = [[None] * len(table.tasks) if amount is None else amount.tolist() for amount in amounts]
        routes = [[history.route_of[name] for name in table.tasks]] if history.shares_routes else []
        classes = [[positives.get(name, "") for name in table.tasks]] if positives else []
        columns = [table.tasks, *values, *classes, *counts, *routes]
        order = worst_first(table.metrics.values[MAIN_METRIC])
        rows += [[*(column[i] for column in columns), table.split, table.step] for i in order]
    titles = [
        *(["positive"] if positives else []),
        "count",
        *(["smallest_class"] if shows_smallest else []),
        "draws",
        *(["labels_seen"] if shows_labels else []),
        *(["route"] if history.shares_routes else []),
    ]
    return {"columns": ["task", *metrics, *titles, "split", "step"], "data": rows}


def count_smallest(metrics: TaskMetrics) -> np.ndarray | None:
    """Returns the samples of each task's smallest class; None if an earlier version evaluated, which did not count them."""
    counts = metrics.column("smallest_class")
    return None if np.isnan(counts).any() else counts.astype(np.int64)


def column_rank(metric: str) -> tuple[int, str]:
    return (TASK_COLUMNS.index(metric) if metric in TASK_COLUMNS else len(TASK_COLUMNS), metric)


def draw_heatmap(history: RunHistory, picture: Path) -> None:
    """Draws the main metric of every task at every evaluation of the split evaluated most often, worst task on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    split = max(history.steps, key=lambda name: len(history.steps[name]))
    matrix = history.over_time(split, MAIN_METRIC).worst_first()
    tasks, steps = matrix.tasks, matrix.steps
    height = float(np.clip(0.16 * len(tasks), 2.5, 8))
    figure = Figure(figsize=(7, height + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    image = axes.imshow(
        matrix.values, aspect="auto", cmap="viridis", vmin=matrix.lowest, vmax=1, interpolation="nearest"
    )
    axes.set_title(f"{METRIC_LABELS[MAIN_METRIC]} on {split}, {len(tasks)} tasks, worst on top")
    axes.set_xlabel("step")
    columns = range(0, len(steps), max(1, -(-len(steps) // MAX_LABELS)))
    axes.set_xticks(list(columns), [str(steps[i]) for i in columns], rotation=90 if len(columns) > 8 else 0)
    labelled = range(0, len(tasks), max(1, -(-len(tasks) // MAX_LABELS)))
    names = [show_name(tasks[i], MAX_LABEL_WIDTH) for i in labelled]
    axes.set_yticks(list(labelled), names, fontsize=6, parse_math=False)
    figure.colorbar(image, ax=axes)
    figure.savefig(picture, dpi=110)
