"""What a study reads from the folder of a trained and evaluated run."""

from pathlib import Path

import numpy as np

from matl_scale.metrics.task_metrics import mean
from matl_scale.runs.history import RunHistory


def per_task(folder: Path, metric: str, split: str = "test") -> np.ndarray:
    """Returns a metric of the last evaluation of a split, shape `(num_tasks,)`, NaN where it is undefined."""
    return RunHistory(folder).latest(split).metrics.values[metric]


def macro(folder: Path, metric: str, split: str = "test") -> float:
    """Returns the mean of a metric over the tasks where it is defined."""
    return mean(per_task(folder, metric, split))


def count_above(folder: Path, metric: str, reference: str, split: str = "test") -> float:
    """Returns how many tasks have a higher value of one metric than of another."""
    return float((per_task(folder, metric, split) > per_task(folder, reference, split)).sum())
