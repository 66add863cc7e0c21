"""What MLflow shows of a run beside its metrics: a description to read first, tags for the list of runs, its data set."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from matl_scale.task_metrics import SUMMARIES
from matl_scale.tracking.history import RunHistory, TaskTable
from matl_scale.tracking.views import PICTURE_METRIC

DIGEST_LENGTH = 36  # that MLflow takes
WORST = 10
SUMMARY_COLUMNS = ("balanced_accuracy", "auroc", "average_precision", "accuracy")


def describe_run(history: RunHistory) -> str:
    """Returns a description in Markdown: per split the summaries over tasks, and the worst tasks by name."""
    parts = [describe_table(history.latest(split)) for split in history.steps]
    parts.append(
        "All tasks: artifact `per_task.json` (a table), `per_task.png` (tasks × evaluations), `per_task.parquet` (the whole "
        "history)."
    )
    return "\n\n".join(parts)


def describe_table(table: TaskTable) -> str:
    """Returns what there is to say of one evaluation."""
    metrics, summary = table.metrics, table.metrics.summary()
    below = int(summary["tasks_below_baseline"])
    head = " | ".join(name.replace("_", " ") for name in SUMMARY_COLUMNS)
    worst, main = metrics.worst(WORST, PICTURE_METRIC), PICTURE_METRIC.replace("_", " ")
    named = ", ".join(f"{escape(table.tasks[i])} {shown(metrics.values[PICTURE_METRIC][i])}" for i in worst)
    mean, p10 = (shown(summary[f"{kind}_{PICTURE_METRIC}"]) for kind in ("macro", "p10"))
    lines = [
        # MLflow folds away all but the first lines
        f"**{escape(table.split)} after {table.step:,} steps: {len(table.tasks)} tasks, mean {main} {mean} "
        f"(10th percentile {p10}), {below} below the majority baseline**",
        f"Worst by {main}: {named or 'none is defined'}",
        f"| over tasks | {head} |\n|---|{'---|' * len(SUMMARY_COLUMNS)}\n"
        + "\n".join(
            f"| {label} | " + " | ".join(shown(summary[f"{kind}_{name}"]) for name in SUMMARY_COLUMNS) + " |"
            for kind, label in SUMMARIES.items()
        ),
    ]
    undefined = int(np.isnan(metrics.values[PICTURE_METRIC]).sum())
    if undefined:
        lines.append(f"{undefined} tasks have no value: no labelled sample in the split, or samples of one class only.")
    return "\n\n".join(lines)


def run_tags(history: RunHistory) -> dict[str, str]:
    """Returns tags that the list of runs can show as columns: the worst task of each split, by name."""
    tags = {}
    for split in history.steps:
        table = history.latest(split)
        for task_id in table.metrics.worst(1, PICTURE_METRIC):
            value = shown(table.metrics.values[PICTURE_METRIC][task_id])
            tags[f"{split}/worst_task"] = f"{table.tasks[task_id]} ({value})"
    return tags


def environment_tags(environment: Mapping[str, Any]) -> dict[str, str]:
    """Returns tags of the environment: the program, Python, devices, and the versions that change numbers."""
    if not environment:
        return {}
    packages, devices = environment["packages"], environment["devices"]
    tags = {f"env.{name}": packages[name] for name in ("matl-scale", "torch", "torchvision") if name in packages}
    tags |= {"mlflow.source.name": environment["command"][0], "mlflow.source.type": "LOCAL"}
    return tags | {"env.python": environment["python"], "env.devices": f"{len(devices)} × {devices[0]}"}


def dataset_fields(data: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fields of MLflow's `Dataset` for a shard set: the digest is the beginning of its manifest's id."""
    return {
        "name": str(data["path"]).rstrip("/").rsplit("/", 1)[-1] or str(data["path"]),
        "digest": str(data["manifest_id"])[:DIGEST_LENGTH],
        "source_type": "shard_set",
        "source": json.dumps({"path": data["path"], "version": data["version"]}),
        "profile": json.dumps({"tasks": data["tasks"], "image_size": data["image_size"], **data["splits"]}),
    }


def shown(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.4f}"


def escape(text: str) -> str:
    """Keeps a name from being read as Markdown or HTML."""
    for character in "\\`*_{}[]<>()#|~!":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
