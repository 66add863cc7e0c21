"""Views of a run's per-task history: the latest table, and the picture tasks × evaluations."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from matl_scale.tracking.local import DRAWS_FILE, PER_TASK_FILE

PICTURE_METRIC = "balanced_accuracy"
FIRST_COLUMNS = ("balanced_accuracy", "auroc", "average_precision", "accuracy", "majority_accuracy")
MAX_LABELS = 50


def latest_table(folder: Path) -> dict[str, Any]:
    """Returns the last evaluation of each split, as `{"columns": [...], "data": [[...], ...]}`.

    One row per task, worst first; what a reader looks at first comes first.
    """
    history = pq.read_table(folder / PER_TASK_FILE)
    metrics = sorted(set(history["metric"].to_pylist()), key=column_rank)
    draws = read_draws(folder)
    rows = []
    for split in dict.fromkeys(history["split"].to_pylist()):
        part = history.filter(pc.equal(history["split"], split))
        step = pc.max(part["step"]).as_py()
        by_task: dict[str, dict[str, Any]] = {}
        for row in part.filter(pc.equal(part["step"], step)).to_pylist():
            by_task.setdefault(row["task"], {"count": row["count"]})[row["metric"]] = row["value"]
        for task, values in sorted(by_task.items(), key=lambda item: badness(item[1])):
            numbers = [None if values[name] is None else round(values[name], 4) for name in metrics]
            rows.append([task, *numbers, values["count"], draws.get(task), split, step])
    return {"columns": ["task", *metrics, "count", "draws", "split", "step"], "data": rows}


def column_rank(metric: str) -> tuple[int, str]:
    return (FIRST_COLUMNS.index(metric) if metric in FIRST_COLUMNS else len(FIRST_COLUMNS), metric)


def badness(values: dict[str, Any]) -> tuple[bool, float]:
    value = values.get(PICTURE_METRIC)
    return (value is None, value or 0.0)


def read_draws(folder: Path) -> dict[str, int]:
    """Returns how many slots each task has had at the last evaluation."""
    if not (folder / DRAWS_FILE).is_file():
        return {}
    table = pq.read_table(folder / DRAWS_FILE)
    last = table.filter(pc.equal(table["step"], pc.max(table["step"])))
    return dict(zip(last["task"].to_pylist(), last["draws"].to_pylist(), strict=True))


def draw_heatmap(folder: Path, picture: Path) -> None:
    """Draws the balanced accuracy of every task at every evaluation of the split evaluated most, worst task on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    split, steps, tasks, values = read_history(folder)
    height = float(np.clip(0.16 * len(tasks), 2.5, 8))
    figure = Figure(figsize=(7, height + 1), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lowest = float(np.nanmin(values)) if np.isfinite(values).any() else 0.0
    image = axes.imshow(values, aspect="auto", cmap="viridis", vmin=lowest, vmax=1, interpolation="nearest")
    axes.set_title(f"{PICTURE_METRIC.replace('_', ' ')} on {split}, {len(tasks)} tasks, worst on top")
    axes.set_xlabel("step")
    axes.set_xticks(range(len(steps)), [str(step) for step in steps], rotation=90 if len(steps) > 8 else 0)
    shown = range(0, len(tasks), max(1, -(-len(tasks) // MAX_LABELS)))
    axes.set_yticks(list(shown), [tasks[i] for i in shown], fontsize=6)
    figure.colorbar(image, ax=axes)
    figure.savefig(picture, dpi=110)


def read_history(folder: Path) -> tuple[str, list[int], list[str], np.ndarray]:
    """Returns split, steps, task names and values `(num_tasks, num_steps)`, ordered by the last value."""
    history = pq.read_table(folder / PER_TASK_FILE)
    history = history.filter(pc.equal(history["metric"], PICTURE_METRIC))
    splits = history.group_by("split").aggregate([("step", "count_distinct")]).to_pylist()
    split = max(splits, key=lambda row: row["step_count_distinct"])["split"]
    history = history.filter(pc.equal(history["split"], split))
    steps = sorted(set(history["step"].to_pylist()))
    tasks = list(dict.fromkeys(history["task"].to_pylist()))
    values = np.full((len(tasks), len(steps)), np.nan)
    row_of, column_of = ({name: i for i, name in enumerate(names)} for names in (tasks, steps))
    places = zip(history["task"].to_pylist(), history["step"].to_pylist(), history["value"].to_pylist(), strict=True)
    for task, step, value in places:
        values[row_of[task], column_of[step]] = np.nan if value is None else value
    order = np.argsort(values[:, -1])
    return split, steps, [tasks[i] for i in order], values[order]
