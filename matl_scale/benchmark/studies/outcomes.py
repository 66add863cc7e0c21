"""What a study reads from the folder of a trained and evaluated run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from matl_scale.decisions.fit import measure_decisions
from matl_scale.decisions.rule import DecisionRule
from matl_scale.metrics.task_metrics import mean
from matl_scale.runs.checkpoints.network import open_network
from matl_scale.runs.decided import find_kept_predictions, score_samples
from matl_scale.runs.history import RunHistory


def per_task(folder: Path, metric: str, split: str = "test") -> np.ndarray:
    """Returns a metric of the last evaluation of a split, shape `(num_tasks,)`, NaN where it is undefined."""
    return RunHistory(folder).latest(split).metrics.values[metric]


def macro(folder: Path, metric: str, split: str = "test") -> float:
    """Returns the mean of a metric over the tasks where it is defined."""
    return mean(per_task(folder, metric, split))


def measure_unfitted(folder: Path, prior_offsets: Mapping[str, Sequence[float]]) -> dict[str, np.ndarray]:
    """Measures on test the answers of the best network without fitted decisions, but for the prior correction of tasks that have
    offsets. Returns metrics (see `measure_decisions`), each of shape `(num_tasks,)`."""
    kept = find_kept_predictions(folder, "test", open_network(folder, "best").sha256)
    rules = [DecisionRule.unfitted(task.num_classes, prior_offsets.get(task.name)) for task in kept.info.tasks]
    return measure_decisions(score_samples(kept), rules)


def num_higher(values: np.ndarray, references: Sequence[float] | np.ndarray) -> float:
    """Returns how many values are above their references."""
    return float((values > references).sum())
